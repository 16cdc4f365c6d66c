"""Which field a config lacks; and what is no such error."""

import pytest
from ml_collections import ConfigDict

from kdhash.absent import absent_field

CONFIG = ConfigDict({"bit": 16, "student": {"depth": 8}})


@pytest.mark.parametrize(
    ("get", "found"),
    [
        (lambda: CONFIG.bits, ("bits", "bit")),
        (lambda: CONFIG["bits"], ("bits", "bit")),
        (lambda: CONFIG.student.schedule, ("schedule", None)),
        (lambda: {"a": 1}["b"], None),
        (lambda: None.schedule, None),
    ],
)
def test_the_field_and_one_of_a_like_name(get, found):
    with pytest.raises((AttributeError, KeyError)) as error:
        get()
    assert absent_field(error.value) == found
