"""Writes the standard set of the data source `glyphs`: which faces of which Debian packages, and which characters.

    python tools/glyph_manifest.py           # src/dynaconv/train/data/glyphs.json, from the packages installed here
    python tools/glyph_manifest.py --table   # the packages as the table of docs/drawn-data.md

The characters are drawn by a seed from those in the first levels of GB 2312, Big5 and JIS X 0208 that all faces have.
It stops where faces that draw the same shapes, or are of one family, would have different roles.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from dynaconv.markdown import markdown_table
from dynaconv.train.data.glyph_fonts import design_groups, file_sha256, lacking, read_face, render
from dynaconv.train.data.glyphs import bank_side

OUT = Path(__file__).parents[1] / "src" / "dynaconv" / "train" / "data" / "glyphs.json"
COUNT, SEED = 500, 0
OPEN, ARPHIC, GPL = "SIL OFL 1.1", "Arphic Public License", "GPL-2"
# Package, licence of its fonts, files below /usr/share/fonts.
TRAIN = (
    ("fonts-aoyagi-kouzan-t", "public domain", "truetype/aoyagi-kouzan-t/AoyagiKouzanT.ttf"),
    ("fonts-arphic-bsmi00lp", ARPHIC, "truetype/arphic-bsmi00lp/bsmi00lp.ttf"),
    ("fonts-arphic-gbsn00lp", ARPHIC, "truetype/arphic-gbsn00lp/gbsn00lp.ttf"),
    ("fonts-arphic-gkai00mp", ARPHIC, "truetype/arphic-gkai00mp/gkai00mp.ttf"),
    ("fonts-arphic-ukai", ARPHIC, "truetype/arphic/ukai.ttc"),
    ("fonts-baekmuk", "Baekmuk (MIT-like)", "truetype/baekmuk/batang.ttf"),
    ("fonts-cwtex-ming", GPL, "truetype/cwtex/cwming.ttf"),
    ("fonts-dotgothic16", OPEN, "truetype/dotgothic16/DotGothic16-Regular.ttf"),
    ("fonts-horai-umefont", "Ume Font License", "truetype/horai-umefont/ume-tgo4.ttf"),
    ("fonts-ipaexfont-gothic", "IPA Font License", "opentype/ipaexfont-gothic/ipaexg.ttf"),
    ("fonts-ipaexfont-mincho", "IPA Font License", "opentype/ipaexfont-mincho/ipaexm.ttf"),
    ("fonts-kiloji", "BSD-3-Clause", "truetype/kiloji/kiloji.ttf", "truetype/kiloji/kiloji_b.ttf"),
    (
        "fonts-kouzan-mouhitsu",
        "public domain",
        "truetype/kouzan-mouhitsu/kouzan-mouhitsu-gyosho.ttf",
        "truetype/kouzan-mouhitsu/kouzan-mouhitsu.ttf",
    ),
    (
        "fonts-lxgw-wenkai",
        OPEN,
        "truetype/lxgw-wenkai/LXGWWenKai-Bold.ttf",
        "truetype/lxgw-wenkai/LXGWWenKai-Light.ttf",
    ),
    ("fonts-mona", "public domain", "truetype/mona/mona.ttf"),
    (
        "fonts-morisawa-bizud-gothic",
        OPEN,
        "truetype/bizud-gothic/BIZUDGothic-Bold.ttf",
        "truetype/bizud-gothic/BIZUDGothic-Regular.ttf",
    ),
    (
        "fonts-mplus",
        OPEN,
        "opentype/mplus/Mplus1-Black.otf",
        "opentype/mplus/Mplus1-Regular.otf",
        "opentype/mplus/Mplus1-Thin.otf",
    ),
    ("fonts-nanum", OPEN, "truetype/nanum/NanumGothic.ttf", "truetype/nanum/NanumGothicBold.ttf"),
    (
        "fonts-noto-cjk",
        OPEN,
        "opentype/noto/NotoSansCJK-Bold.ttc",
        "opentype/noto/NotoSansCJK-Regular.ttc",
        "opentype/noto/NotoSerifCJK-Bold.ttc",
        "opentype/noto/NotoSerifCJK-Regular.ttc",
    ),
    ("fonts-rampart", OPEN, "truetype/rampart/RampartOne-Regular.ttf"),
    ("fonts-reggae", OPEN, "truetype/reggae/ReggaeOne-Regular.ttf"),
    ("fonts-unfonts-core", GPL, "truetype/unfonts-core/UnDotum.ttf"),
    ("fonts-unfonts-extra", GPL, "truetype/unfonts-extra/UnShinmun.ttf", "truetype/unfonts-extra/UnYetgul.ttf"),
    ("fonts-unifont", f"{GPL} with font exception", "opentype/unifont/unifont.otf"),
)
VAL = (
    ("fonts-aoyagi-soseki", "public domain", "truetype/aoyagi-soseki/aoyagi-soseki.ttf"),
    ("fonts-cwtex-heib", GPL, "truetype/cwtex/cwheib.ttf"),
    ("fonts-dejima-mincho", "MIT", "truetype/dejima-mincho/dejima-mincho-r227.ttf"),
    ("fonts-hanazono", "Hanazono Font License or SIL OFL 1.1", "truetype/hanazono/HanaMinA.ttf"),
    ("fonts-horai-umefont", "Ume Font License", "truetype/horai-umefont/ume-tmo3.ttf"),
    ("fonts-konatu", "MIT", "truetype/konatu/Konatu.ttf"),
    ("fonts-sawarabi-gothic", "CC BY 3.0", "truetype/sawarabi-gothic/sawarabi-gothic-medium.ttf"),
    ("fonts-unfonts-core", GPL, "truetype/unfonts-core/UnBatang.ttf"),
)
TEST = (
    ("fonts-baekmuk", "Baekmuk (MIT-like)", "truetype/baekmuk/dotum.ttf", "truetype/baekmuk/gulim.ttf"),
    ("fonts-cns11643-kai", "Open Government Data License Taiwan 1.0", "truetype/cns11643/TW-Kai-98_1.ttf"),
    ("fonts-cns11643-sung", "Open Government Data License Taiwan 1.0", "truetype/cns11643/TW-Sung-98_1.ttf"),
    ("fonts-cwtex-fs", GPL, "truetype/cwtex/cwfs.ttf"),
    ("fonts-cwtex-yen", GPL, "truetype/cwtex/cwyen.ttf"),
    ("fonts-droid-fallback", "Apache-2.0", "truetype/droid/DroidSansFallbackFull.ttf"),
    ("fonts-morisawa-bizud-mincho", OPEN, "truetype/bizud-mincho/BIZUDMincho-Regular.ttf"),
    ("fonts-motoya-l-cedar", "Apache-2.0", "truetype/motoya-l-cedar/MTLc3m.ttf"),
    ("fonts-motoya-l-maruberi", "Apache-2.0", "truetype/motoya-l-maruberi/MTLmr3m.ttf"),
    ("fonts-nanum", OPEN, "truetype/nanum/NanumBarunGothic.ttf"),
    ("fonts-oradano-mincho-gsrr", "free, own terms", "truetype/oradano-mincho/OradanoGSRR.ttf"),
    ("fonts-sawarabi-mincho", OPEN, "truetype/sawarabi-mincho/sawarabi-mincho-medium.ttf"),
    ("fonts-seto", OPEN, "truetype/seto/setofont.ttf"),
    ("fonts-smiley-sans", OPEN, "truetype/smiley-sans/SmileySans-Oblique.ttf"),
    ("fonts-unfonts-core", GPL, "truetype/unfonts-core/UnGungseo.ttf"),
    ("fonts-wqy-zenhei", f"{GPL} with font exception", "truetype/wqy/wqy-zenhei.ttc"),
    ("fonts-yusei-magic", OPEN, "truetype/yusei-magic/YuseiMagic-Regular.ttf"),
)


def first_level(encoding: str, leads: range, trails: list[int]) -> set[str]:
    """The characters at these bytes of an encoding."""
    found = set()
    for lead in leads:
        for trail in trails:
            try:
                found.add(bytes([lead, trail]).decode(encoding))
            except UnicodeDecodeError:
                continue
    return found


def common_characters() -> list[str]:
    """Characters in everyday use in all of China, Taiwan and Japan."""
    high = list(range(0xA1, 0xFF))
    levels = (
        first_level("gb2312", range(0xB0, 0xD8), high),
        first_level("big5", range(0xA4, 0xC7), [*range(0x40, 0x7F), *high]),
        first_level("euc_jp", range(0xB0, 0xD0), high),
    )
    return sorted(set.intersection(*levels))


def version_of(package: str) -> str:
    """Of an installed Debian package."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build() -> dict[str, Any]:
    """The manifest, from what is installed."""
    packages: dict[str, Any] = {}
    entries: list[dict[str, Any]] = []
    read = []
    for role, lines in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for package, licence, *files in lines:
            packages[package] = {"version": version_of(package), "licence": licence}
            for file in files:
                path = Path("/usr/share/fonts") / file
                face, glyphs = read_face(path)
                read.append((face, glyphs))
                entries.append(
                    {
                        "package": package,
                        "file": str(path),
                        "index": face.index,
                        "family": face.family,
                        "role": role,
                        "sha256": file_sha256(path),
                    }
                )
    shared = [c for c in common_characters() if all(ord(c) in glyphs for _, glyphs in read)]
    while True:
        characters = sorted(random.Random(SEED).sample(shared, COUNT))
        assert all(lacking(glyphs, characters) is None for _, glyphs in read)
        pictures = [render(face, characters, bank_side(32)) for face, _ in read]
        if not (blank := {one for one in pictures if isinstance(one, str)}):
            break
        shared = [c for c in shared if c not in blank]
    groups = design_groups([face for face, _ in read], [one[::12] for one in pictures if not isinstance(one, str)])
    roles: dict[int, tuple[str, str]] = {}
    for entry, group in zip(entries, groups, strict=True):
        role, file = roles.setdefault(group, (entry["role"], entry["file"]))
        if role != entry["role"]:
            sys.exit(f"{file} ({role}) and {entry['file']} ({entry['role']}) draw the same shapes; give them one role.")
    count = {role: sum(entry["role"] == role for entry in entries) for role in ("train", "val", "test")}
    print(f"{len(entries)} faces {count}, {len(set(groups))} designs, {COUNT} of {len(shared)} characters")
    return {"characters": "".join(characters), "packages": dict(sorted(packages.items())), "faces": entries}


def table(manifest: dict[str, Any]) -> str:
    """The packages, their licences, and which faces have which role."""
    rows = []
    for name, package in manifest["packages"].items():
        cells = [
            ", ".join(
                Path(face["file"]).stem for face in manifest["faces"] if (face["package"], face["role"]) == (name, role)
            )
            for role in ("train", "val", "test")
        ]
        rows.append([name, package["version"], package["licence"], *cells])
    return "\n".join(markdown_table(("package", "version", "licence", "train", "validation", "test"), rows, "l"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table and write nothing")
    if parser.parse_args().table:
        print(table(json.loads(OUT.read_text(encoding="utf-8"))))
        return
    OUT.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
