#!/usr/bin/env python3
"""Compares the bill of materials (CycloneDX) with the list that `cargo auditable` has put into the program. Arguments: the
JSON, the program. Both must name what Cargo.lock has, in the same versions; the bill names build-time crates as well."""
import json, re, subprocess, sys, tempfile, zlib

bill_file, program = sys.argv[1:]
bill = json.load(open(bill_file))
assert bill["bomFormat"] == "CycloneDX", bill["bomFormat"]
assert bill["specVersion"] == "1.5", bill["specVersion"]
assert bill["metadata"]["component"]["name"] == "entryway"
components = {(one["name"], one["version"]) for one in bill["components"]}
for one in bill["components"]:
    assert one["purl"].startswith("pkg:cargo/"), one
    assert one.get("licenses"), f"{one['name']} has no licence"

with tempfile.NamedTemporaryFile() as section:
    dump = ["objcopy", "--dump-section", f".dep-v0={section.name}", program, "/dev/null"]
    subprocess.run(dump, check=True)
    inside = json.loads(zlib.decompress(open(section.name, "rb").read()))
listed = {(one["name"], one["version"]) for one in inside["packages"]}
runtime = {(one["name"], one["version"]) for one in inside["packages"] if one.get("kind", "runtime") == "runtime"}
assert ("entryway", bill["metadata"]["component"]["version"]) in listed
runtime = {one for one in runtime if one[0] != "entryway"}

lock = open("Cargo.lock").read()
locked = set(re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock))
for what, names in [("the bill", components), ("the program", listed)]:
    assert names <= locked, f"{what} names what Cargo.lock has not: {sorted(names - locked)}"
missing = runtime - components
assert not missing, f"in the program, not in the bill: {sorted(missing)}"
for name in ["tokio", "rustls", "hickory-resolver", "landlock"]:
    assert any(name == one for one, _ in runtime), name
print(f"      {len(components)} in the bill, {len(runtime)} of them linked into the program")
