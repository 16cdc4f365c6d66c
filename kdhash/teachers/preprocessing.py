"""What a teacher wants done to a picture before it sees it: part of the teacher, done on the device."""

from typing import NamedTuple


class Preprocessing(NamedTuple):
    """From pictures in [0, 1] to a network's input: resize, cut the centre, channel order, mean and std."""

    size: int = 224  # the network sees size x size
    # The shorter side is brought to this length, then the centre is cut; None: straight to size x size.
    resize: int | None = None
    interpolation: str = "bilinear"  # 'bilinear', 'bicubic', 'lanczos', 'nearest': Pillow's, so antialiased
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: str = "rgb"  # or 'bgr'


IMAGENET = Preprocessing(resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
