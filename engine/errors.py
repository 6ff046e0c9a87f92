"""The project's one error tree.

It stands on the lowest floor so that every floor can use it::

    MedregaError                    anything this project refuses, with advice for the person who reads it
    |-- SettingsError               a setting is wrong                       (dicom_node)
    |-- ImageError                  an instance or frame cannot be used
    |   |-- NotDicomError           the file is not DICOM, or lacks its UIDs
    |   |-- NotAnImageError         DICOM, but no image of a patient (SR, SEG, dose report)
    |   `-- UndecodableError        the pixels cannot be decoded, or exceed a limit
    |-- PlanError                   no plan fits the study, or a plan is wrong
    |-- ModelError                  a checkpoint folder or artefact cannot be used
    |-- RuntimeLostError            the engine failed in mid-reading; reading again may help
    |-- ReadingCancelledError       the reading was cancelled on request
    |-- LimitError                  a plan's limit was reached; the reading ends with what it has
    |-- WriteError                  a reading cannot be expressed as DICOM   (sr_writer)
    |   `-- GateError               a result failed a check before sending
    `-- NodeError                   everything that happens to a study       (dicom_node)

Messages never hold patient data: UIDs, counts, attribute keywords and settings only.
"""


class MedregaError(Exception):
    """Root of every error the project raises on purpose.

    Parameters
    ----------
    message : str
        What went wrong, in words a PACS administrator understands, without patient data.
    advice : str, optional
        What to do about it.

    Attributes
    ----------
    retry : bool
        Whether the same call may succeed later without anyone changing anything.
    """

    retry: bool = False

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    @property
    def explained(self) -> str:
        """The message, with the advice behind it where there is some."""
        return f"{self} ({self.advice})" if self.advice else str(self)


class SettingsError(MedregaError):
    """A setting is wrong."""


class ImageError(MedregaError):
    """An instance or frame cannot be used."""


class NotDicomError(ImageError):
    """The file is not DICOM, or lacks the UIDs that identify it."""


class NotAnImageError(ImageError):
    """The object is DICOM but holds no image of a patient."""


class UndecodableError(ImageError):
    """The pixels cannot be decoded, or exceed a limit."""


class PlanError(MedregaError):
    """No plan fits the study, or a plan is wrong."""


class ModelError(MedregaError):
    """A checkpoint folder or compiled artefact cannot be used."""


class RuntimeLostError(MedregaError):
    """The engine failed in mid-reading; reading again may help."""

    retry = True


class ReadingCancelledError(MedregaError):
    """The reading was cancelled on request."""


class LimitError(MedregaError):
    """A plan's limit was reached; the reading ends with what it has."""


class WriteError(MedregaError):
    """A reading cannot be expressed as DICOM objects."""


class GateError(WriteError):
    """A result object failed a check before sending."""


class NodeError(MedregaError):
    """Something that happens to a study on its way through the node."""
