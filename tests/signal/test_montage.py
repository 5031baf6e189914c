"""Names and places of electrodes."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import mne
import numpy as np
import pytest

from emod.signal.montage import (
    ALIASES,
    ELECTRODES,
    canonical_name,
    canonical_names,
    canonical_site,
    nearest_sites,
    positions,
)
from emod.signal.template import TEMPLATE_MM

BIOSEMI32 = (
    "Fp1 AF3 F3 F7 FC5 FC1 C3 T7 CP5 CP1 P3 P7 PO3 O1 Oz Pz Fp2 AF4 Fz F4 F8 FC6 FC2 Cz C4 T8 CP6 CP2 P4 P8 PO4 O2"
)
EMOTIV14 = "AF3 F7 F3 FC5 T7 P7 O1 O2 P8 T8 FC6 F4 F8 AF4"
NEUROSCAN64 = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 C4 C6 T8 M1 "
    "TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 M2 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
)
FACED32 = "Fp1 Fp2 Fz F3 F4 F7 F8 FC1 FC2 FC5 FC6 Cz C3 C4 T7 T8 CP1 CP2 CP5 CP6 Pz P3 P4 P7 P8 PO3 PO4 Oz O1 O2 A2 A1"
DSI24 = "P3 C3 F3 Fz F4 C4 P4 Cz Fp1 Fp2 T3 T5 O1 O2 F7 F8 T6 T4"


def test_the_order_is_pinned() -> None:
    # Rows of trained embeddings are indices into this tuple; appending keeps this number, anything else changes it.
    assert zlib.crc32(" ".join(ELECTRODES[:92]).encode()) == 1894100262
    assert len(set(ELECTRODES)) == len(ELECTRODES) >= 92


@pytest.mark.parametrize(
    ("text", "n"), [(BIOSEMI32, 32), (EMOTIV14, 14), (NEUROSCAN64, 64), (FACED32, 32), (DSI24, 18)], ids=str
)
def test_every_cap_of_the_corpora_is_known(text: str, n: int) -> None:
    names = canonical_names(text.split())
    assert len(names) == n
    assert [name.upper() for name in names] == [ALIASES.get(word, word).upper() for word in text.split()]
    assert set(names) <= set(ELECTRODES)


def test_spelling_and_older_names() -> None:
    assert canonical_names(["FPZ", "fcz", " oz ", "t3", "T4", "T5", "T6", "cb1", "O9"]) == (
        *("Fpz", "FCz", "Oz", "T7", "T8", "P7", "P8", "CB1", "I1"),
    )
    assert canonical_names(["A1", "M1", "A2", "M2"]) == ("A1", "M1", "A2", "M2")
    assert all(canonical_name(name) == name for name in ELECTRODES)


@pytest.mark.parametrize(("wrong", "nearest"), [("Fp3", "P3"), ("TP11", "TP1"), ("FC9", "F"), ("", "")])
def test_an_unknown_electrode_is_named_with_the_nearest_known_one(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"electrode '{wrong}' .*nearest: {nearest}") as caught:
        canonical_names(["Cz", wrong])
    assert "\n" not in str(caught.value)


def test_two_names_of_one_site_are_refused() -> None:
    with pytest.raises(ValueError, match=r"T7 is given twice, as 'T3' and 't7'"):
        canonical_names(["T3", "Cz", "t7"])


def test_places_lie_on_the_sphere_where_the_names_say() -> None:
    places = positions(ELECTRODES)
    at = dict(zip(ELECTRODES, places, strict=True))
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, atol=1e-12)
    for name, (x, y, _) in at.items():
        number = name.lstrip("ABCFIMOPT").lstrip("p")
        assert np.sign(round(x, 1)) == (0 if number == "z" else -1 if int(number) % 2 else 1), name
        if name.startswith(("Fp", "AF", "F")) and not name.startswith(("FT", "FC")):
            assert y > 0.2, name
        if name.startswith(("P", "O", "I", "CB")):
            assert y < -0.2, name
        if number not in {"z"} and int(number) % 2:
            mirrored = at[name.replace(number, str(int(number) + 1))] * [-1, 1, 1]
            np.testing.assert_allclose(at[name], mirrored, atol=0.06, err_msg=name)
    assert at["Cz"][2] > 0.95
    # Seen from the sphere's own centre, forehead and occiput are equally far from the vertex: about a right angle.
    front, back = (np.degrees(np.arccos(at["Cz"] @ at[name])) for name in ("Fpz", "Oz"))
    assert abs(front - back) < 5
    assert 80 < front < 95
    # CB1 is on the lowest row, between PO9 and I1, and no other site is nearer to it than these.
    nearest = sorted(ELECTRODES, key=lambda name: float(np.linalg.norm(at[name] - at["CB1"])))
    assert set(nearest[:3]) == {"CB1", "PO9", "I1"}
    np.testing.assert_array_equal(positions(["t6", "Cz"]), [at["P8"], at["Cz"]])


def test_the_table_of_places_is_that_of_mne() -> None:
    template = mne.channels.make_standard_montage("colin27_1005").get_positions()["ch_pos"]
    assert set(TEMPLATE_MM) == set(template) - set(ALIASES)
    for name, place_m in template.items():
        np.testing.assert_array_equal(np.array(TEMPLATE_MM[ALIASES.get(name, name)]) / 1000, place_m, err_msg=name)
    assert set(ELECTRODES) - set(TEMPLATE_MM) == {"CB1", "CB2"}


def test_sites_between_electrodes_have_places_and_names_too() -> None:
    assert [canonical_site(name) for name in (" fcc3H", "AFPZ", "T3", "cb1")] == ["FCC3h", "AFpz", "T7", "CB1"]
    np.testing.assert_allclose(np.linalg.norm(positions(TEMPLATE_MM), axis=1), 1, atol=1e-12)
    with pytest.raises(ValueError, match=r"electrode 'FCC3x' is not a 10-05 name \(nearest: FCC3"):
        canonical_site("FCC3x")
    with pytest.raises(ValueError, match=r"'FCC3h' is not a 10-10 name"):
        canonical_name("FCC3h")


@pytest.mark.parametrize("name", ["Oz", "FCC3h", "M1", "CB2"])
def test_nearest_sites_weigh_by_the_inverse_of_their_angle(name: str) -> None:
    among = [site for site in NEUROSCAN64.split() if canonical_name(site) != name]
    found = nearest_sites(name, among)
    at = positions([name])[0]
    angles = {canonical_name(site): float(np.arccos(at @ positions([site])[0])) for site in among}
    assert list(found) == sorted(angles, key=lambda site: angles[site])[:3]
    assert sum(found.values()) == pytest.approx(1)
    products = [found[site] * angles[site] for site in found]
    np.testing.assert_allclose(products, products[0], rtol=1e-6)


def test_nearest_sites_at_the_very_place_and_among_few() -> None:
    found = nearest_sites("oz", ["O1", "Oz", "O2"])
    assert found["Oz"] == pytest.approx(1, abs=1e-4)
    assert nearest_sites("Oz", ["Cz"]) == {"Cz": 1.0}
    with pytest.raises(ValueError, match="no sites to be near to"):
        nearest_sites("Oz", [])


def test_the_room_is_light_to_import() -> None:
    code = "import emod.signal, sys; emod.signal.positions(['Cz']); "
    code += "print(sorted({'mne', 'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == "[]"
