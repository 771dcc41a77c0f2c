"""What a relay says about a login is shown without the password, however the relay repeats it."""

import base64

import pytest
from aiosmtplib.auth import auth_crammd5_verify
from hypothesis import assume, given
from hypothesis import strategies as st

from spoold.smtp.connection import discreet

USER = "postman@example.com"
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=20)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SECRET = "kan\u00e4ri vogel"
SAID = {
    "itself": SECRET,
    "PLAIN": b64(f"\0{USER}\0{SECRET}"),
    "PLAIN cut": b64(f"\0{USER}\0{SECRET}")[:37],
    "LOGIN": b64(SECRET),
    "LOGIN cut": b64(SECRET)[:9],
}
UPPER = {f"{name} in capitals": said.upper() for name, said in SAID.items()}
OTHERS = {
    "PLAIN with an identity": b64(f"{USER}\0{USER}\0{SECRET}"),
    "CRAM-MD5": auth_crammd5_verify(USER, SECRET, b64("<1.2@relay.example>")).decode(),
}


@pytest.mark.parametrize("name", [*SAID, *UPPER, *OTHERS])
def test_the_command_that_a_relay_repeats_is_hidden(name: str) -> None:
    said = {**SAID, **UPPER, **OTHERS}[name]
    text = discreet(f"500 unrecognized: 'AUTH PLAIN {said}' (#5.5.1)", USER, SECRET)
    assert text == "500 unrecognized: 'AUTH PLAIN (hidden)' (#5.5.1)"


def test_other_words_stay() -> None:
    text = "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6 for postman@example.com, see https://x.example/?p=1+2"
    assert discreet(text, USER, SECRET) == text
    assert discreet(text, USER, "") == text


@given(WORDS, WORDS, st.sampled_from(["{}", "x{}x", "AUTH PLAIN {}", "a={} b", "\0{}\0"]))
def test_no_form_of_any_password_is_left(user: str, password: str, frame: str) -> None:
    # A password that is a piece of our own word cannot be told from it.
    assume(password.lower() not in "(hidden)" and len(password.encode()) > 2)
    for said in (password, b64(password), b64(f"\0{user}\0{password}")):
        shown = discreet(frame.format(said), user, password)
        assert said.rstrip("=") not in shown
