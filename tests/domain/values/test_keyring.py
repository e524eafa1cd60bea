from __future__ import annotations

import copy
import pickle

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue, Tampered
from retinue.actors.domain.values.keyring import MAC_BYTES, Keyring

OLD = bytes(range(32))
NEW = bytes(range(100, 140))
OTHER = b"\x07" * 32

before = Keyring(OLD)
rotating = Keyring(NEW, OLD)
after = Keyring(NEW)
stranger = Keyring(OTHER)


class TestParse:
    def test_the_first_line_is_current_and_the_rest_are_accepted(self) -> None:
        ring = Keyring.parse(f"{NEW.hex()}\n{OLD.hex()}\n")
        assert ring.issuers == rotating.issuers
        assert ring.issuer == after.issuer

    def test_blank_lines_and_comments_are_skipped(self) -> None:
        ring = Keyring.parse(f"# ours\n\n  {NEW.hex().upper()}  # of May\r\n\t\n#{OTHER.hex()}\n")
        assert ring.issuers == after.issuers

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "holds no key"),
            ("# only a comment\n\n", "holds no key"),
            (f"{OLD.hex()}\nnot hex, and 5ec2e7", "line 2 is not hex"),
            (f"\n{OLD.hex()[:-1]}", "line 2 is not hex"),
            (f"#\n{OLD.hex()[:-2]}", "line 2 has 31 bytes"),
            (f"{OLD.hex()}\n{NEW.hex()}\n{OLD.hex().upper()}", "given twice"),
        ],
    )
    def test_what_is_wrong_is_said_without_the_secret(self, text: str, says: str) -> None:
        with pytest.raises(InvalidValue, match=says) as caught:
            Keyring.parse(text)
        shown = repr(caught.value) + str(caught.value.details)
        assert OLD.hex()[:8] not in shown
        assert "5ec2e7" not in shown
        assert caught.value.details["field"] == "keyring"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_a_short_secret_is_refused_when_given_as_bytes(self) -> None:
        with pytest.raises(InvalidValue, match="31 bytes"):
            Keyring(NEW, OLD[:-1])


class TestMac:
    def test_own_marks_are_accepted(self) -> None:
        mac = before.mac(b"data")
        assert len(mac) == MAC_BYTES
        before.check(mac, b"data", "the journal")

    @given(st.integers(0, MAC_BYTES - 1), st.integers(1, 255))
    @settings(max_examples=50)
    def test_any_changed_byte_is_noticed(self, place: int, change: int) -> None:
        mac = bytearray(before.mac(b"data"))
        mac[place] ^= change
        with pytest.raises(Tampered, match=r"event 7"):
            before.check(bytes(mac), b"data", "event 7")

    @pytest.mark.parametrize("cut", [0, 4, MAC_BYTES - 1])
    def test_a_shortened_mark_is_refused(self, cut: int) -> None:
        with pytest.raises(Tampered, match="x"):
            before.check(before.mac(b"data")[:cut], b"data", "x")

    def test_a_lengthened_mark_is_refused(self) -> None:
        with pytest.raises(Tampered):
            before.check(before.mac(b"data") + b"\0", b"data", "x")

    def test_other_data_and_other_keys_are_refused(self) -> None:
        with pytest.raises(Tampered) as caught:
            before.check(before.mac(b"data"), b"datb", "the snapshot")
        assert caught.value.details == {"what": "the snapshot"}
        with pytest.raises(Tampered, match="not marked by a key of this cluster"):
            before.check(stranger.mac(b"data"), b"data", "x")


class TestSeal:
    @given(st.binary(max_size=64), st.text("ab:/é", max_size=8))
    @settings(max_examples=50)
    def test_what_was_sealed_opens_in_its_context_only(self, data: bytes, context: str) -> None:
        blob = before.seal(data, context)
        assert before.open(blob, context, "x") == data
        with pytest.raises(Tampered):
            before.open(blob, context + "2", "x")

    def test_bytes_do_not_move_between_context_and_data(self) -> None:
        mac = before.seal(b"bc", "a")[:MAC_BYTES]
        with pytest.raises(Tampered):
            before.open(mac + b"c", "ab", "x")

    @pytest.mark.parametrize("blob", [b"", b"short", bytes(MAC_BYTES), bytes(100)])
    def test_garbage_does_not_open(self, blob: bytes) -> None:
        with pytest.raises(Tampered, match="agent 3"):
            before.open(blob, "agent", "agent 3")

    def test_changed_data_does_not_open(self) -> None:
        blob = before.seal(b"data", "a")
        with pytest.raises(Tampered):
            before.open(blob[:-1] + b"b", "a", "x")
        with pytest.raises(Tampered):
            before.open(blob + b"!", "a", "x")

    def test_a_plain_mark_is_no_seal(self) -> None:
        label_and_data = b"\0\0\0\1adata"
        with pytest.raises(Tampered):
            before.open(before.mac(label_and_data) + b"data", "a", "x")


class TestSign:
    def test_a_signature_is_verified_by_its_issuer(self) -> None:
        signature = before.sign(b"data")
        assert before.verify(before.issuer, b"data", signature)
        assert not before.verify(before.issuer, b"datb", signature)

    def test_an_issuer_outside_the_ring_is_refused_though_its_signature_is_right(self) -> None:
        signature = stranger.sign(b"data")
        assert stranger.verify(stranger.issuer, b"data", signature)
        assert not before.verify(stranger.issuer, b"data", signature)

    @pytest.mark.parametrize("signature", ["", "zz", "é", "00" * 64, "00" * 63])
    def test_a_malformed_signature_is_refused(self, signature: str) -> None:
        assert not before.verify(before.issuer, b"data", signature)

    def test_a_signature_has_one_text_only(self) -> None:
        signature = before.sign(b"data")
        assert not before.verify(before.issuer, b"data", signature.upper())
        assert not before.verify(before.issuer, b"data", signature + " ")

    def test_the_issuer_is_the_same_on_every_machine(self) -> None:
        assert before.issuer == Keyring(OLD).issuer
        assert len(bytes.fromhex(before.issuer)) == 32
        assert len({before.issuer, after.issuer, stranger.issuer}) == 3


class TestRotation:
    def test_during_it_old_and_new_are_accepted(self) -> None:
        for maker in (before, after, rotating):
            rotating.check(maker.mac(b"data"), b"data", "x")
            assert rotating.open(maker.seal(b"data", "a"), "a", "x") == b"data"
            assert rotating.verify(maker.issuer, b"data", maker.sign(b"data"))

    def test_new_things_are_made_with_the_current_key(self) -> None:
        after.check(rotating.mac(b"data"), b"data", "x")
        assert after.open(rotating.seal(b"data", "a"), "a", "x") == b"data"
        assert rotating.issuer == after.issuer
        assert after.verify(rotating.issuer, b"data", rotating.sign(b"data"))

    def test_after_it_the_old_key_is_refused(self) -> None:
        with pytest.raises(Tampered, match="put it back"):
            after.check(before.mac(b"data"), b"data", "x")
        with pytest.raises(Tampered):
            after.open(before.seal(b"data", "a"), "a", "x")
        assert not after.verify(before.issuer, b"data", before.sign(b"data"))


class TestSecrecy:
    def test_nothing_shows_a_secret(self) -> None:
        for shown in (repr(rotating), str(rotating), repr(rotating._current)):
            for secret in (OLD, NEW):
                assert secret.hex()[:6] not in shown
                assert repr(secret)[2:10] not in shown

    def test_it_is_never_pickled_or_copied(self) -> None:
        for dump in (pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="never pickled"):
                dump(rotating)
            with pytest.raises(TypeError, match="never pickled"):
                dump(rotating._current)


def test_a_ring_reads_its_file_again_when_it_meets_a_newer_key() -> None:
    old, new = Keyring(b"o" * 32), Keyring(b"n" * 32, b"o" * 32)
    sealed = new.seal(b"data", "place")
    with pytest.raises(Tampered):
        old.open(sealed, "place", "it")
    old.reload = lambda: new
    assert old.open(sealed, "place", "it") == b"data"
    assert old.seal(b"data", "place") == sealed
    assert old.verify(new.issuer, b"data", new.sign(b"data"))
