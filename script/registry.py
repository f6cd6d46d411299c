#!/usr/bin/env python3
"""Write src/lwm2m/model/registry.txt, the facts of the OMA LwM2M registry in short form.

    script/registry.py IN OUT

IN is either a checkout of github.com/OpenMobileAlliance/lwm2m-registry (`<id>.xml` and
`version_history/<id>-<major>_<minor>.xml`), or one JSON file: a list of objects with the keys
id, version, name, lwm2m, multiple, mandatory and resources (id, name, ops, multiple, mandatory,
type, units, range).

Only facts are taken: identifiers, names, operations, types, units and ranges; no descriptions.
The notice of src/lwm2m/model/NOTICE applies to the result.
"""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

HEADER = """\
# Object definitions of the OMA LwM2M registry in short form. Made by script/registry.py; do not edit.
# Copyright Open Mobile Alliance and contributors; BSD-3-Clause and others, see NOTICE beside this file.
#
# /object  version  least LwM2M version  Single|Multiple + Mandatory|Optional  name
# resource  object versions (* all)  operations  Single|Multiple + Mandatory|Optional  type  name  units  range
#
# Columns are parted by one tab; empty ones at the end are left out; operations - is none.
"""


def text(node, name):
    found = node.find(name)
    return " ".join((found.text or "").split()) if found is not None else ""


def objects_of_xml(path):
    for node in ElementTree.parse(path).getroot().iter("Object"):
        yield {
            "id": int(text(node, "ObjectID")),
            "version": text(node, "ObjectVersion") or "1.0",
            "name": text(node, "Name"),
            "lwm2m": text(node, "LWM2MVersion") or "1.0",
            "multiple": text(node, "MultipleInstances") == "Multiple",
            "mandatory": text(node, "Mandatory") == "Mandatory",
            "resources": [
                {
                    "id": int(item.get("ID")),
                    "name": text(item, "Name"),
                    "ops": text(item, "Operations"),
                    "multiple": text(item, "MultipleInstances") == "Multiple",
                    "mandatory": text(item, "Mandatory") == "Mandatory",
                    "type": text(item, "Type"),
                    "units": text(item, "Units"),
                    "range": text(item, "RangeEnumeration"),
                }
                for item in node.iter("Item")
            ],
        }


def read(source):
    if source.is_file():
        return json.loads(source.read_text(encoding="utf-8"))
    files = [f for f in source.glob("*.xml") if re.fullmatch(r"\d+\.xml", f.name)]
    files += source.glob("version_history/*.xml")
    found = {}
    for file in files:
        for definition in objects_of_xml(file):
            found.setdefault((definition["id"], definition["version"]), definition)
    return list(found.values())


def version_key(version):
    return tuple(int(part) for part in version.split("."))


def flags(definition):
    return ("M" if definition["multiple"] else "S") + ("M" if definition["mandatory"] else "O")


def line(*columns):
    columns = [" ".join(str(column).split()) for column in columns]
    return "\t".join(columns).rstrip("\t")


def lines_of(editions):
    """The lines of one object: its versions, then each distinct form of each resource."""
    editions = sorted(editions, key=lambda edition: version_key(edition["version"]))
    forms = {}
    for edition in editions:
        yield line(f"/{edition['id']}", edition["version"], edition["lwm2m"], flags(edition), edition["name"])
        for r in edition["resources"]:
            form = (r["id"], r["ops"] or "-", flags(r), r["type"], r["name"], r.get("units", ""), r.get("range", ""))
            forms.setdefault(form, []).append(edition["version"])
    for form in sorted(forms, key=lambda form: (form[0], version_key(forms[form][0]))):
        versions = forms[form]
        where = "*" if len(versions) == len(editions) else ",".join(versions)
        yield line(form[0], where, *form[1:])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    by_id = {}
    for definition in read(Path(sys.argv[1])):
        by_id.setdefault(definition["id"], []).append(definition)
    lines = [line for object_id in sorted(by_id) for line in lines_of(by_id[object_id])]
    Path(sys.argv[2]).write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


main()
