"""Files written in a thread, while other work goes on.

Promise: files are written in the order in which they come, all that wait together, with one flush; who adds them learns
of an error at the next or at the end. However the block ends, what was added is written first.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lorat.shards.base.storage import write_together
from lorat.shards.base.waiting import waiting

_MOST = 1000  # groups of files that wait for the disk; who adds another waits too


class Behind:
    """Takes files that are to be written."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._files = pool, deque[Mapping[Path, bytes]]()
        self._jobs = deque[Future[None]]()  # one for each group, whose files an earlier one may have written

    def add(self, files: Mapping[Path, bytes]) -> None:
        """Write files that belong together, soon, as `write_together` does; an error is of files added before."""
        self._files.append(files)
        self._jobs.append(self._pool.submit(self._write))
        self._wait(_MOST)

    def finish(self) -> None:
        """Wait until all is written; errors as of `add`."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while self._jobs and (len(self._jobs) > left or self._jobs[0].done()):
            with waiting("the disk, which takes results"):
                self._jobs[0].result()
            self._jobs.popleft()

    def _write(self) -> None:
        files = dict[Path, bytes]()
        while self._files:
            files |= self._files.popleft()
        write_together(files)


@contextmanager
def written_behind() -> Iterator[Behind]:
    """Write files behind the work in the block."""
    with ThreadPoolExecutor(1, thread_name_prefix="behind") as pool:
        behind = Behind(pool)
        yield behind
        behind.finish()
