"""The errors of the test bed; each message is fit to be shown to a person.

ControlPlaneError
├── BinaryUnavailableError     a binary is missing and could not be built
├── ProcessDiedError           a child process ended when it should have run
├── DeadlineExceededError      a condition did not become true in time
├── CommandFailedError         kubectl answered with an error
└── NotLoopbackError           an address leads away from this machine
"""


class ControlPlaneError(Exception):
    """The control plane could not be brought into the wanted state."""


class BinaryUnavailableError(ControlPlaneError):
    """A binary is missing and could not be built; the message names the fix."""


class ProcessDiedError(ControlPlaneError):
    """A child process ended by itself; the message carries its last log lines."""


class DeadlineExceededError(ControlPlaneError):
    """A condition did not become true before its deadline."""


class CommandFailedError(ControlPlaneError):
    """A kubectl command failed; the message carries what it wrote to stderr."""


class NotLoopbackError(ControlPlaneError):
    """An address leads away from this machine and was refused."""
