"""How a run may end before its end. Users' mistakes are ValueError; these are the rest. Each is one line to the user."""


class SettingError(ValueError):
    """A setting that cannot be what it is: "encoder=resnet1888: no such timm model"."""

    def __init__(self, setting: str, rest: str):
        """rest: its value, and what is wrong with it."""
        super().__init__(f"{setting}={rest}")
        self.rest = rest

    def of(self, setting: str) -> "SettingError":
        """The same where another setting names the encoder, as teacher or student."""
        return SettingError(setting, self.rest)


class RunError(RuntimeError):
    """The run cannot continue; what it saved is untouched."""

    code = 1


class Diverged(RunError):
    """The loss is no number any more."""


class Collapsed(RunError):
    """Features of different images have become the same."""


class Declined(RunError):
    """The encoder has become worse than the weights that training began with."""


class NotQuantizable(RunError):
    """A network has no INT8 version, or one whose outputs are no numbers."""


class DiskFull(RunError):
    """Nothing was lost but the write: the file of that name is the one before."""


class Stopped(RunError):
    """A signal asked the run to end; its state is saved, and the same command resumes."""

    code = 75  # sysexits' EX_TEMPFAIL: what a scheduler's requeue rule can look for
