"""What a directory holds after a power cut, at any moment of a recorded run.

    recording = Recording(directory, log)             # the tree as it is now, taken as durable
    subprocess.run(command, env=recording.environment(), ...)
    for image in recording.images(recording.points(200, seed=1), place):
        image.path                                    # the tree as it would be found
        image.marks["durable"]                        # what had been promised by then

The recorded program says what it promised by `marks.mark("durable", 17)`.

What survives
-------------
POSIX promises nothing about what was not synced, and about what was: fsync and fdatasync of a file
keep its content and its size (fdatasync may leave out times only; fsync(2), fdatasync(2)). "Calling
fsync() does not necessarily ensure that the entry in the directory containing the file has also
reached disk": names (create, rename, link, unlink, mkdir, rmdir) need an fsync of their directory.
sync_file_range promises nothing, msync(MS_SYNC) its range.

ext4 with data=ordered does more: its journal commits all names and sizes in the order in which they
happened, so that an fsync of any file keeps every name made before, and a rename over an existing
file writes the new one's data first (auto_da_alloc). Nothing may rely on that here.

STRICT   only what POSIX promises.
TORN     of what was not synced: each 512-byte sector is as one of the unsynced writes to it left it
         (the newest with probability 1/2), or as it was before them; each change of size or name is
         kept with probability 1/2, whatever happened to the others. A rename within one directory
         is kept or lost as a whole; between two directories each fsync keeps that directory's half.
WHOLE    everything: what a killed process leaves. It shows that the recording is complete.

A file that lost its last name is gone, an unsynced directory with all that is in it. Sectors are
whole: a disk that tears within a sector is not covered. Changes of mode survive always, owners and
times are not looked at.
"""

from tests.support.powercut.disk import Survival
from tests.support.powercut.log import Kind, Operation, Unreplayable, operations
from tests.support.powercut.recording import Image, Recording

__all__ = ["Image", "Kind", "Operation", "Recording", "Survival", "Unreplayable", "operations"]
