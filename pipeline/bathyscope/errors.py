"""The error family: what happened, what was given, what was wanted, what to do.

Every error that a user can cause is one of these. Each is also the builtin that fits, so that
`except ValueError` keeps working. Programmer errors stay `assert`.
"""


class BathyscopeError(Exception):
    """Base of every error that Bathyscope raises for its user."""


class ConfigError(BathyscopeError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class HookPointError(BathyscopeError, ValueError):
    """A hook point that matches no module, or that this model family does not have."""


class CorpusError(BathyscopeError, ValueError):
    """Text that cannot become a corpus: missing, too short, unreadable."""


class ModelError(BathyscopeError, ValueError):
    """A model folder that cannot be loaded as asked."""


class GraphError(BathyscopeError, ValueError):
    """An attribution graph whose arrays do not fit together, or that has a cycle."""


class FitError(BathyscopeError, ValueError):
    """Points that a curve or a law cannot be fitted to."""


class NonFiniteError(BathyscopeError, ArithmeticError):
    """NaN or infinity where finite numbers are needed."""


class IdentityMismatch(BathyscopeError, ValueError):
    """An artifact is already there and was made from something else."""


class StoreError(BathyscopeError, OSError):
    """A store that is incomplete, damaged or written by somebody else."""


class ReceiptConflict(StoreError):
    """Two workers finished the same unit with different results."""


class LeaseLost(StoreError):
    """The right to do a unit has passed to another worker."""


class DiskSpaceError(BathyscopeError, OSError):
    """Less free disk than the work needs."""


class MissingArtifact(BathyscopeError, FileNotFoundError):
    """An artifact that an earlier stage should have made is not there."""


class FormatVersionError(StoreError):
    """A run written in a format that this version does not know."""


class DependencyError(BathyscopeError, ImportError):
    """An optional package is needed for what was asked."""


class JobError(BathyscopeError, RuntimeError):
    """Units that failed more often than the limit allows."""


class ReplicaLost(BathyscopeError, RuntimeError):
    """The processes of a replica can do no unit together any more; others must take their place."""


class StopRequested(BathyscopeError, RuntimeError):
    """The work was stopped by a signal, in good order; the same command goes on."""
