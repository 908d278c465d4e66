import pytest

from bathyscope.errors import StoreError
from bathyscope.stores.objects import Objects


@pytest.mark.parametrize("url", ["http://host/run", "s3:///run", "s4://bucket/run", "ftp://x"])
def test_a_url_of_no_store_is_refused_with_those_that_are(url):
    with pytest.raises(StoreError, match=r"names no store\. A path, file://.* is wanted"):
        Objects(url)


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_credentials_in_a_url_are_refused_and_not_repeated(scheme):
    with pytest.raises(StoreError, match="holds credentials") as caught:
        Objects(f"{scheme}://name:hunter2@bucket/run")

    assert "hunter2" not in str(caught.value)
