"""The errors convprior raises on purpose: one sentence with the value, the rule and the fix."""


class ConvPriorError(Exception):
    """Base of every error that convprior raises on purpose."""


class InputError(ConvPriorError, ValueError):
    """A value the caller gave breaks a rule; the message names value, rule and fix."""


class RunError(ConvPriorError, RuntimeError):
    """Something outside the caller's arguments failed: a full disk, a diverged run."""


class MissingExtraError(ConvPriorError, ImportError):
    """An optional dependency is needed and absent; the message names the extra to install."""
