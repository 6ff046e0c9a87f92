"""The spool: what is on disk, synced and in place before anyone hears of it.

Several processes may receive into it: a file gets its place by a hard link, which only one of them can make.

Under the data folder::

    incoming/                                         files being written, and those in place until they are entered,
                                                      with what they hold in their names (`dicom_node.spool.seal`)
    studies/<study instance UID>/<SOP instance UID>.dcm        as received, behind file meta information (PS3.10 7.1)
    studies/<study instance UID>/<SOP instance UID>_<n>.dcm    other content under the same UID, kept apart
    readings/<run>/reading.json
    readings/<run>/review-<n>-<digest>.json           what the n-th review left of it
    results/<run>/<variant>/<kind>.dcm
"""

from dicom_node.spool.disk import SpoolError, SpoolFullError
from dicom_node.spool.incoming import IncomingFile
from dicom_node.spool.part10 import content_of, data_set_offset, split
from dicom_node.spool.place import Stored, is_conflict
from dicom_node.spool.spool import Spool

__all__ = [
    "IncomingFile",
    "Spool",
    "SpoolError",
    "SpoolFullError",
    "Stored",
    "content_of",
    "data_set_offset",
    "is_conflict",
    "split",
]
