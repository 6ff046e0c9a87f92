"""Who vouches for results that a person has reviewed."""

from __future__ import annotations

from pydantic import Field, field_validator

from dicom_node.settings.section import Section


class ReviewSettings(Section):
    """Reviews of findings in the console."""

    organization: str = Field(
        default="",
        max_length=64,
        description="Organization that reviewers act for (Verifying Organization, PS3.3 C.17.2); without one nothing "
        "can be reviewed.",
    )
    names: dict[str, str] = Field(
        default={},
        description="Reviewers' names as results are to have them, by account, as `li = 'Wang^Li'`; an account that is "
        "not here goes by its own name.",
    )

    def name_of(self, account: str) -> str:
        """A reviewer's name (VR PN): its caret says that one of a single part is meant so."""
        name = self.names.get(account) or account.replace("\\", "/").replace("=", "-")[:63]
        return name if "^" in name else f"{name}^"

    @field_validator("organization")
    @classmethod
    def _plain(cls, value: str) -> str:
        if "\\" in value or not value.isprintable():
            raise ValueError("has a backslash or something that is not printed")
        return value

    @field_validator("names")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for account, name in value.items():
            groups = name.split("=")
            if not name.strip("^= ") or "\\" in name or not name.isprintable() or len(groups) > 3:
                raise ValueError(f"the name of {account} is no person's name as DICOM writes it, Family^Given")
            if any(len(group) > 64 or group.count("^") > 4 for group in groups):
                raise ValueError(f"the name of {account} has more than 64 characters or five parts")
        return value
