"""Methods that compare models of many sizes."""
