"""Identity: UUIDs in their usual form, users exactly as given or not at all."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.ids import derived_id, parse_user, parse_uuid, uuid7

KEY_ID = "0195f3a27c107b3e"

times = st.integers(0, (1 << 48) * 1000 - 1)
entropy = st.binary(min_size=10, max_size=10)


class TestUuid7:
    @given(times, entropy)
    def test_it_is_a_version_7_uuid_that_carries_its_millisecond(
        self, now: int, random: bytes
    ) -> None:
        made = uuid.UUID(uuid7(now, random))
        assert made.version == 7
        assert made.variant == uuid.RFC_4122
        assert made.int >> 80 == now // 1000

    @given(times, times, entropy, entropy)
    def test_later_ones_sort_after_earlier_ones(
        self, one: int, other: int, random: bytes, more: bytes
    ) -> None:
        if one // 1000 < other // 1000:
            assert uuid7(one, random) < uuid7(other, more)

    def test_all_the_entropy_that_fits_is_in_it(self) -> None:
        plain = uuid.UUID(uuid7(0, bytes(10)))
        full = uuid.UUID(uuid7(0, b"\xff" * 10))
        assert (plain.int ^ full.int).bit_count() == 74

    @given(times, entropy)
    def test_it_reads_back(self, now: int, random: bytes) -> None:
        made = uuid7(now, random)
        assert parse_uuid(made, "id") == made


class TestDerivedId:
    def test_the_same_name_gives_the_same_id(self) -> None:
        assert derived_id("allowance of 1") == derived_id("allowance of 1")
        assert derived_id("allowance of 1") != derived_id("allowance of 2")

    def test_it_is_a_uuid(self) -> None:
        assert parse_uuid(derived_id("x"), "id") == derived_id("x")


class TestParseUuid:
    @pytest.mark.parametrize("version", [1, 3, 4, 5, 6, 7, 8])
    def test_any_version_is_read(self, version: int) -> None:
        text = f"0195f3a2-7c10-{version}b3e-9a44-3f1d2c5b6a79"
        assert parse_uuid(text, "id") == text

    @pytest.mark.parametrize("text", [str(uuid.UUID(int=0)), str(uuid.UUID(int=(1 << 128) - 1))])
    def test_so_are_the_smallest_and_the_greatest(self, text: str) -> None:
        assert parse_uuid(text, "id") == text

    @given(st.uuids())
    def test_capitals_and_missing_hyphens_become_the_usual_form(self, id: uuid.UUID) -> None:
        for spelling in (str(id), str(id).upper(), id.hex, id.hex.upper()):
            assert parse_uuid(spelling, "id") == str(id)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "0195f3a2",
            "0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a7",
            "0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a790",
            "0195f3a2-7c10-7b3e-9a443f1d2c5b6a79",
            "0195f3a27c-10-7b3e-9a44-3f1d2c5b6a79",
            "0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a7g",
            "0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79\n",
            " 0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79",
            "{0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79}",
            "\N{FULLWIDTH DIGIT ZERO}195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79",
            pytest.param("x" * 100_000, id="long"),
            None,
            7,
            pytest.param(10**5000, id="huge"),
            b"0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79",
            uuid.UUID(int=7),
            ["0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79"],
        ],
    )
    def test_anything_else_is_refused_by_name(self, value: object) -> None:
        with pytest.raises(InvalidValue, match=r"^parent\.id: .* is not a UUID$") as caught:
            parse_uuid(value, "parent.id")
        assert caught.value.details == {"field": "parent.id"}
        assert len(caught.value.message) < 200


class TestParseUser:
    @given(st.binary(min_size=8, max_size=8))
    def test_8_bytes_in_lower_case_hex_are_taken_as_they_are(self, key: bytes) -> None:
        assert parse_user(key.hex()) == key.hex()

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "0",
            KEY_ID[:-1],
            KEY_ID + "0",
            KEY_ID.upper(),
            "0x" + KEY_ID[2:],
            " " + KEY_ID[1:],
            KEY_ID + "\n",
            KEY_ID[:-1] + "g",
            "alice",
            "\N{ARABIC-INDIC DIGIT ZERO}" * 16,
            pytest.param("0" * 100_000, id="long"),
            None,
            0,
            int(KEY_ID, 16),
            pytest.param(10**5000, id="huge"),
            bytes.fromhex(KEY_ID),
        ],
    )
    def test_anything_else_is_refused_and_never_padded_or_zeroed(self, value: object) -> None:
        with pytest.raises(InvalidValue, match=r"^owner: .* 16 lower-case hex digits") as caught:
            parse_user(value, "owner")
        assert caught.value.details == {"field": "owner"}
        assert len(caught.value.message) < 200

    @given(st.text(max_size=20))
    def test_what_is_read_is_what_was_given(self, text: str) -> None:
        try:
            read = parse_user(text)
        except InvalidValue:
            read = text
        assert read == text
