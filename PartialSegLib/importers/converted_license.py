"""What the LICENSE file of a package says whose weights were trained elsewhere."""

from __future__ import annotations


def converted_license(system: str, url: str, license_name: str | None, citation: str = "") -> str:
    """The text of the file.

    Args:
        system: whose checkpoint it was.
        url: of the code that trained.
        license_name: of that code; None where it says nothing about the weights.
        citation: what to cite, if anything.
    """
    published = f"; the official code is published under the {license_name}" if license_name else ""
    return (
        f"The weights in this package were converted from a checkpoint of {system} ({url}).\n"
        "The conversion changes names and container only. The terms under which its authors gave the\n"
        f"checkpoint away still hold{published}.\n" + (f"Cite: {citation}\n" if citation else "")
    )
