"""Makes the image files `data/images/made_*` from hopper.jpg (Pillow's) and from numbers.

pip install pillow==12.0.0 numpy==1.26.4; run it in this folder. Its encoders decide the bytes, so goldens.py runs after it.
"""
import io
import struct
import zlib

import numpy as np
from PIL import Image

FOLDER = "data/images/"


def save(name, data):
    with open(FOLDER + "made_" + name, "wb") as file:
        file.write(data)


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height, depth=8, colour=2):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def main():
    hopper = Image.open(FOLDER + "hopper.jpg").convert("RGB")
    small = hopper.crop((30, 20, 30 + 45, 20 + 51))
    save("cmyk.jpg", encode(small.convert("CMYK"), "JPEG", quality=85))
    save("progressive_444.jpg", encode(small, "JPEG", quality=80, progressive=True, subsampling=0))
    save("progressive_grey.jpg", encode(small.convert("L"), "JPEG", quality=80, progressive=True))
    save("422.jpg", encode(small, "JPEG", quality=80, subsampling=1))
    save("lossless.webp", encode(small, "WEBP", lossless=True))
    alpha = small.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(small.size))
    save("alpha.webp", encode(alpha, "WEBP", quality=70))
    turned = small.transpose(Image.Transpose.ROTATE_90).resize(small.size)
    save("animated.webp", encode(small, "WEBP", save_all=True, append_images=[turned], duration=40, quality=70))
    exif = Image.Exif()
    exif[0x0112] = 6
    save("orientation_6.png", encode(small.resize((9, 14)), "PNG", exif=exif))
    save("orientation_6.webp", encode(small, "WEBP", quality=60, exif=exif))
    save("orientation_3.jpg", encode(small, "JPEG", quality=80, exif=_orientation(3)))
    ramp = np.arange(0, 65536, 65536 // 300, dtype=np.uint16)[:300].reshape(15, 20)
    save("grey16.png", encode(Image.fromarray(ramp), "PNG"))

    # Damage of every kind; most keep a correct checksum, so that the named fault is what is met.
    jpeg = encode(small, "JPEG", quality=80)
    save("bad_cut.jpg", jpeg[: len(jpeg) // 2])
    save("bad_without_end.jpg", jpeg[:-2])
    save("bad_only_start.jpg", jpeg[:3])
    broken = bytearray(jpeg)
    at = len(jpeg) * 2 // 3
    broken[at : at + 2] = b"\xff\xd8"
    save("bad_marker_inside.jpg", bytes(broken))
    png = encode(small.resize((20, 17)), "PNG")
    flipped = bytearray(png)
    flipped[-13] ^= 1  # last byte of IDAT's checksum, before the 12 bytes of IEND
    save("bad_checksum.png", bytes(flipped))
    save("bad_without_end.png", png[:-12])
    save("bad_huge.png", png_header(60000, 60000) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))
    save("bad_no_height.png", png_header(5, 0) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    save("bad_short_data.png", png_header(8, 8) + chunk(b"IDAT", zlib.compress(b"\0" * 60)) + chunk(b"IEND", b""))
    save("bad_no_palette.png", png_header(8, 8, 8, 3) + chunk(b"IDAT", zlib.compress(b"\0" * 72)) + chunk(b"IEND", b""))
    webp = encode(small, "WEBP", quality=70)
    save("bad_cut.webp", webp[: len(webp) // 2])
    save("bad_last_byte.webp", webp[:-2])
    header = bytearray(jpeg)
    sof = jpeg.index(b"\xff\xc0")
    header[sof + 5 : sof + 9] = struct.pack(">HH", 60000, 60000)
    save("bad_huge.jpg", bytes(header))
    save("bad_empty.jpg", b"")
    save("bad_text.png", b"not an image\n")
    save("bad_gif.jpg", encode(Image.new("P", (3, 2)), "GIF"))


def _orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


if __name__ == "__main__":
    main()
