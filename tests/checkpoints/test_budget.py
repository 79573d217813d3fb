"""What reading a pickle may cost."""

import pytest

from tessera.checkpoints.budget import BYTES_AN_INSTRUCTION, FACTOR, LEAST, MOST, ODD_KEYS, VARIABLE, Budget, TooCostly
from tessera.errors import UsageError


def test_a_budget_grows_with_the_file_between_two_bounds() -> None:
    sizes = [0, 1000, LEAST // FACTOR + 1, MOST // FACTOR - 1, 10**12]
    budgets = [Budget(size).bytes for size in sizes]
    assert budgets == [LEAST, LEAST, FACTOR * sizes[2], FACTOR * sizes[3], MOST]


def test_every_instruction_and_every_byte_counts() -> None:
    budget = Budget(0)
    budget.instruction(None)
    assert budget.bytes == LEAST - BYTES_AN_INSTRUCTION
    budget.instruction(b"a" * 1000)
    budget.copies("a" * 1000, [None] * 1000, (b"a" * 1000,))
    assert budget.bytes <= LEAST - 2 * BYTES_AN_INSTRUCTION - 1000 - 1000 - 8 * 1000 - 1000


LARGE: dict[str, object] = {
    "bytes": b"a" * 10**5, "bytearray": bytearray(10**5), "text": "a" * 10**5, "list": [0] * 10**5, "tuple": (0,) * 10**5,
    "dict": dict.fromkeys(range(10**5)), "number": 2**10**6, "bytes in a tuple": (b"a" * 10**5,),
}  # fmt: skip


@pytest.mark.parametrize("value", LARGE.values(), ids=list(LARGE))
def test_copies_without_end_are_refused_whatever_is_copied(value: object) -> None:
    budget = Budget(0)
    with pytest.raises(TooCostly, match=VARIABLE):
        budget.copies(*[value] * (LEAST // 10**5 + 1))


def test_keys_whose_hashes_anybody_can_choose_are_few() -> None:
    budget = Budget(10**9)
    for _ in range(ODD_KEYS):
        budget.odd_key()
    with pytest.raises(TooCostly, match="neither text nor small numbers"):
        budget.odd_key()


def test_who_trusts_a_file_may_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3000")
    assert Budget(0).bytes == 3000 * 2**20
    for wrong in ("", "-1", "1.5", "many", "٣"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(UsageError, match=VARIABLE):
            Budget(0)


def test_a_compressed_description_is_bounded_by_its_file() -> None:
    assert Budget(100).largest_description(100) == 2**22
    assert Budget(2**24).largest_description(2**24) == FACTOR * 2**24
    assert Budget(10**12).largest_description(10**12) == MOST
