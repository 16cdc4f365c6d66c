import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdhash.serve.encoder import Encoder
from tests.serve.stand_ins import SIZE, ProjectionModel, text_code

PIXELS = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)


def run(model, work, **options):
    """What `work(encoder)`, a coroutine function, gives."""
    with ThreadPoolExecutor(4) as readers:
        encoder = Encoder(model, readers, **options)
        try:
            return asyncio.run(work(encoder))
        finally:
            encoder.close()


def test_concurrent_requests_share_batches_and_get_their_own_codes():
    model = ProjectionModel(seconds=0.02)

    async def work(encoder):
        pictures = [encoder.picture(lambda row=row: PIXELS[row]) for row in range(40)]
        texts = [encoder.text(f"text {row}") for row in range(3)]
        return await asyncio.gather(*pictures, *texts)

    encoded = run(model, work, largest=16)
    codes = np.stack([one.code for one in encoded])
    np.testing.assert_array_equal(codes[:40], ProjectionModel().encode_pictures(PIXELS))
    np.testing.assert_array_equal(codes[40:], [text_code(f"text {row}") for row in range(3)])
    assert max(model.batches) <= 16
    assert len(model.batches) <= 8
    assert max(one.batch for one in encoded) == max(model.batches) > 1
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_a_lone_request_waits_for_nobody():
    async def work(encoder):
        return await encoder.picture(lambda: PIXELS[0])

    encoded = run(ProjectionModel(), work, wait_ms=5000)
    assert encoded.batch == 1
    assert encoded.decode_ms <= encoded.encode_ms < 2000


def test_a_batch_waits_for_pictures_that_are_being_read_but_not_for_ever():
    def slow(row, seconds):
        time.sleep(seconds)
        return PIXELS[row]

    async def work(encoder):
        asked = [
            encoder.picture(lambda row=row, s=s: slow(row, s)) for row, s in enumerate((0, 0.05, 0.1, 1.0))
        ]
        return [one.batch for one in await asyncio.gather(*asked)]

    assert run(ProjectionModel(), work, wait_ms=500) == [3, 3, 3, 1]


def test_a_failure_reaches_everyone_who_waits_and_the_next_are_served():
    model = ProjectionModel()
    encode, failed = model.encode_pictures, []

    def once(pixels):
        if not failed:
            failed.append(len(pixels))
            raise RuntimeError("out of memory")
        return encode(pixels)

    model.encode_pictures = once

    async def work(encoder):
        first = await asyncio.gather(
            *(encoder.picture(lambda row=row: PIXELS[row]) for row in range(3)), return_exceptions=True
        )
        return first, await encoder.picture(lambda: PIXELS[5])

    first, after = run(model, work, wait_ms=1000)
    assert [str(error) for error in first] == ["out of memory"] * 3
    np.testing.assert_array_equal(after.code, encode(PIXELS[5:6])[0])


def test_a_picture_that_cannot_be_read_leaves_no_trace():
    def broken():
        raise ValueError("no picture")

    async def work(encoder):
        with pytest.raises(ValueError, match="no picture"):
            await encoder.picture(broken)
        return await encoder.picture(lambda: PIXELS[0])

    assert run(ProjectionModel(), work, wait_ms=5000).encode_ms < 2000


def test_a_client_that_gives_up_does_not_stop_the_others():
    async def work(encoder):
        leaves = asyncio.create_task(encoder.text("leaves"))
        stays = asyncio.create_task(encoder.text("stays"))
        await asyncio.sleep(0.02)
        leaves.cancel()
        return (await stays).code

    np.testing.assert_array_equal(run(ProjectionModel(seconds=0.1), work), text_code("stays"))


@pytest.mark.parametrize(("kind", "sizes"), [("image", [1, 8, 20]), ("image-text", [1, 1, 8, 8, 20, 20])])
def test_warming_encodes_each_size_of_batch_once(kind, sizes):
    model = ProjectionModel(kind)

    async def work(encoder):
        encoder.warm()

    run(model, work, largest=20)
    assert sorted(model.batches) == sizes
