"""Images as a caller gives them."""

from __future__ import annotations

import base64

import pytest

from letta_conversations_mcp.conversations.images import IMAGE_BYTES, check_public, read_image
from letta_conversations_mcp.core.errors import InvalidArgument
from letta_conversations_mcp.core.model import Image

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n pixel").decode()


def test_an_address_is_left_to_the_letta_server() -> None:
    url = "https://example.com:8000/cat.png?size=2#a"

    assert read_image(f"  {url}\n") == Image(url=url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "10.1.2.3",
        "192.168.0.1:8283",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "224.0.0.1",
        "user@127.0.0.1",
        "no-such-host.invalid",
        "",
        "[broken",
    ],
)
async def test_an_image_in_the_network_of_the_letta_server_is_refused(host: str) -> None:
    with pytest.raises(InvalidArgument, match="public"):
        await check_public([Image(url="https://8.8.8.8/a.png"), Image(url=f"https://{host}/cat.png")])


async def test_public_hosts_and_data_pass() -> None:
    await check_public(
        [Image(url="https://8.8.8.8/a"), Image(url="https://[2606:4700::1111]/"), Image(media_type="x", data=PIXEL)]
    )


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/gif", "image/webp"])
def test_data_is_taken_with_its_media_type(media_type: str) -> None:
    assert read_image(f"data:{media_type};base64,{PIXEL}") == Image(media_type=media_type, data=PIXEL)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "cat.png",
        "file:///etc/passwd",
        "ftp://example.com/cat.png",
        "http://example.com/cat.png",
        "javascript:alert(1)",
        f"data:image/svg+xml;base64,{PIXEL}",
        f"data:text/html;base64,{PIXEL}",
        f"data:image/png,{PIXEL}",
        f"data:image/png;charset=x;base64,{PIXEL}",
        PIXEL,
    ],
)
def test_what_is_neither_an_address_nor_image_data_is_refused_with_the_forms_that_are(given: str) -> None:
    with pytest.raises(InvalidArgument, match=r"https://… URL nor data:image/png;base64,…"):
        read_image(given)


@pytest.mark.parametrize("data", ["not base64!", "AAA", "AAAA\nAAAA", "ÄÄÄÄ", "AA==AAAA", "_-_-"])
def test_data_that_is_no_base64_is_refused(data: str) -> None:
    with pytest.raises(InvalidArgument, match="not base64"):
        read_image(f"data:image/png;base64,{data}")


def test_the_largest_image_is_taken_and_one_byte_more_is_not() -> None:
    largest, too_large = (base64.b64encode(bytes(IMAGE_BYTES + more)).decode() for more in (0, 1))

    assert read_image(f"data:image/png;base64,{largest}").data == largest
    with pytest.raises(InvalidArgument, match=f"{IMAGE_BYTES + 1} bytes"):
        read_image(f"data:image/png;base64,{too_large}")


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="0 bytes"):
        read_image("data:image/png;base64,")


def test_the_error_never_repeats_a_large_input() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_image("x" * 1_000_000)

    assert len(str(caught.value)) < 400
