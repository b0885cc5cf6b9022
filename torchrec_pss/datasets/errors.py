"""What can be wrong with data that is being read. Each is one line that names the file."""


class DataError(ValueError):
    """Data that cannot be trained on."""


class BadRowsError(DataError):
    """More malformed lines than allowed, or a row of numbers that no model can take."""


class DataChangedError(DataError):
    """A file that is not what it was when its rows were counted, or when the checkpoint was written."""
