"""Numbers above a bound are dropped."""

import tidegate
from tidegate import Fault, number


def process(batch, out):
    """Rows pass unchanged unless something else is said of them here."""
    limit = number("max")
    if limit is None:
        raise Fault("the setting `max` is missing")
    for row in range(len(batch)):
        value = batch.number(row)
        if value is not None and value > limit:
            out.drop(row)


WitWorld = tidegate.filter_of(process)
