"""PDFs as small as they can be: a page for each text, in Helvetica."""

from pathlib import Path


__all__ = ["write_pdf"]

# What nobody has the password of: the keys fit no password, the empty one neither.
LOCK = f"<</Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}>>>"


def write_pdf(file: Path, texts: list[str], *, width: int = 200, height: int = 100, is_locked: bool = False) -> Path:
    """
    Writes a PDF.

    Args:
        file (`Path`): to be written.
        texts (`list[str]`): what stands on its pages, large.
        width, height (`int`): of a page, in points.
        is_locked (`bool`): whether it needs a password.
    """
    pages = [4 + 2 * number for number in range(len(texts))]
    kids = " ".join(f"{page} 0 R" for page in pages)
    objects = {
        1: "<</Type /Catalog /Pages 2 0 R>>",
        2: f"<</Type /Pages /Count {len(texts)} /Kids [{kids}] /MediaBox [0 0 {width} {height}]>>",
        3: "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    }
    for page, text in zip(pages, texts, strict=True):
        content = f"BT /F 32 Tf 10 {height // 2} Td ({text}) Tj ET"
        fonts = "<</Font <</F 3 0 R>>>>"
        objects[page] = f"<</Type /Page /Parent 2 0 R /Resources {fonts} /Contents {page + 1} 0 R>>"
        objects[page + 1] = f"<</Length {len(content)}>>stream\n{content}\nendstream"
    lines, places = "%PDF-1.4\n", []
    for number, inside in sorted(objects.items()):
        places.append(len(lines))
        lines += f"{number} 0 obj{inside}endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    lock = f" /Encrypt {LOCK} /ID [<00><00>]" if is_locked else ""
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size} /Root 1 0 R{lock}>>\n"
    file.write_text(f"{lines}{end}startxref\n{len(lines)}\n%%EOF\n", encoding="latin-1")
    return file
