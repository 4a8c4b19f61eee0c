"""The one exception a user is meant to read."""


class CadcError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message alone and ends with exit code 2; ``--debug`` adds the
    traceback. Anything else that escapes is a defect of ours.
    """
