"""moto's server with puts one at a time.

moto looks whether the condition of a put holds and then stores the object, without a lock: two
clients may both create one object, which S3 does not allow.
"""

import sys
import threading

from moto.s3.responses import S3Response
from moto.server import main

_lock = threading.Lock()
_put = S3Response.put_object


def _one_at_a_time(self: S3Response) -> object:
    with _lock:
        return _put(self)


S3Response.put_object = _one_at_a_time  # type: ignore[method-assign]

if __name__ == "__main__":
    main(sys.argv[1:])
