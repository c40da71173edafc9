#!/usr/bin/env bash
# RDKit reads a SMILES with a blank in it as the molecule before the blank, and an empty one as a molecule.
#
# Behaviour: Chem.MolFromSmiles takes what follows a blank for a name and says nothing, so a blank that slipped into a
#   cell turns aspirin into acetaldehyde. An empty text gives a molecule without atoms, not None, whose
#   fingerprint is all 0.
# Expected before the run: None for both, as for any text that is no SMILES.
# Versions: rdkit 2026.09.1, Python 3.11.7. Date: 2026-11-30.
# Output seen: 'CC(=O) Oc1ccccc1C(=O)O': CC=O / '': 0 atoms / 'aspirin': None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rdkit==2026.09.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
from rdkit import Chem, rdBase

rdBase.DisableLog("rdApp.*")
for text in ("CC(=O) Oc1ccccc1C(=O)O", "", "aspirin"):
    molecule = Chem.MolFromSmiles(text)
    seen = None if molecule is None else Chem.MolToSmiles(molecule) or f"{molecule.GetNumAtoms()} atoms"
    print(f"{text!r}:", seen)
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected="'CC(=O) Oc1ccccc1C(=O)O': CC=O
'': 0 atoms
'aspirin': None"
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
