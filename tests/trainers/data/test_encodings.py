"""A text comes out in the encoding that it was written in, or an error shows how it could be read."""

import time
from io import BytesIO

import pytest

from trainers.data.encodings import UTF_8, check_encoding, find_encoding


GERMAN = "Artikel;Größe;Preis\nKäse;groß;1,20 €\nMöhre;klein;„2,10“ – neu\n"
TOLD = {
    "German": ("cp1252", GERMAN),
    "one word": ("cp1252", "q,p\na,b\ncafé,b\n"),
    "capitals": ("cp1252", "GRÖSSE ÄPFEL ÉCOLE"),
    "French": ("cp1252", "crème brûlée, père Noël à côté"),
    "Spanish": ("cp1252", "¿Año? niño más corazón, España"),
    "Portuguese": ("cp1252", "ação, coração, maçã"),
    "Italian": ("cp1252", "perché, città, più"),
    "Danish": ("cp1252", "smørrebrød på æble"),
    "several languages": ("cp1252", "Größe, crème à la carte, España, más, ação"),
    "Latin-1": ("latin-1", "Größe m² 5°C\u00a0«été»"),
    "euros of Latin-9": ("iso8859_15", "5 € cœur, Größe"),
    "Polish": ("cp1250", "żółw, łódź, gęś"),
    "Hungarian": ("cp1250", "őrült fűrész, árvíztűrő"),
    "a Mac": ("mac_roman", GERMAN.replace("„", "").replace("“", "").replace("€", "")),
    "a mark": ("utf-16", GERMAN),
    "no mark": ("utf-16-le", GERMAN),
    "the other order": ("utf-16-be", GERMAN),
    "UTF-8": ("utf-8", GERMAN),
    "a mark of UTF-8": ("utf-8-sig", GERMAN),
    "ASCII": ("ascii", "a,b\n1,2\n"),
}


@pytest.mark.parametrize(("encoding", "text"), TOLD.values(), ids=TOLD)
def test_what_is_written_is_read(encoding: str, text: str) -> None:
    content = text.encode(encoding)
    file = BytesIO(content)
    found = find_encoding(file, "t.csv")
    assert content.decode(found.name) == text and file.tell() == 0
    is_told = encoding.startswith(("utf", "ascii"))
    assert is_told == (found.example == "") and all(word in text for word in found.example.split(", "))


NOT_TOLD = {
    "an accent that two have": ("cp1252", "crème", "'crème' as cp1252, 'crčme' as cp1250"),
    "a name from elsewhere": ("cp1252", "Škoda, crème", "'crème' as cp1252, 'crčme' as cp1250"),
    "a Mac": ("mac_roman", "Möller", "'Mšller' as cp1252, 'Möller' as mac_roman"),
    "Russian": ("cp1251", "кошка, собака, на", "cp1251 .Cyrillic"),
    "Russian of Unix": ("koi8_r", "кошка, собака, на", "cp1251 .Cyrillic"),
    "Greek": ("cp1253", "γάτα και σκύλος", "for instance"),
    "Chinese": ("gb18030", "名称,文件,猫", "gb18030 .Chinese"),
    "Japanese": ("shift_jis", "名前,ファイル", "shift_jis .Japanese"),
    "DOS": ("cp850", "Käse, Möhre, für", "cp850 .DOS"),
    "UTF-32": ("utf-32", "a", "is UTF-32"),
}


@pytest.mark.parametrize(("encoding", "text", "told"), NOT_TOLD.values(), ids=NOT_TOLD)
def test_where_looking_does_not_tell_nobody_guesses(encoding: str, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^t.csv .*{told}"):
        find_encoding(BytesIO(text.encode(encoding)), "t.csv")


def test_a_file_of_utf_8_with_some_other_bytes_stays_one() -> None:
    """They are in bad rows, which are named one by one."""
    for content in ("Größe ".encode() * 3 + b"caf\xe9", "Größe".encode()[:-2], "ü\n".encode() + b"\0\xff\xfe\n"):
        assert find_encoding(BytesIO(content), "t.csv").name == UTF_8


@pytest.mark.slow
def test_looking_takes_linear_time() -> None:
    """At one word of ten million letters, and at very many words and lines."""
    start = time.process_time()
    for content in ("a" * 10_000_000 + " ü", "Größe;" * 500_000, "ü\n" * 1_000_000, "ü\0\n" * 300_000 + "ü"):
        assert find_encoding(BytesIO(content.encode("cp1252")), "t.csv").name in ("cp1252", UTF_8)
    assert time.process_time() - start < 10


def test_names_of_encodings() -> None:
    assert check_encoding("UTF8") == check_encoding("utf-8") == UTF_8 and check_encoding("cp1251") == "cp1251"
    for name in ("cp9999", "base64", "", "a\0"):
        with pytest.raises(ValueError, match="There is no encoding .*; there are utf-8"):
            check_encoding(name)
