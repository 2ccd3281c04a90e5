"""A small pottery's own documents, in the four formats that people have them in; about things that no model knows."""

from pathlib import Path

from tests import documents

RELAY = """# Relay

## Ports

The Halm relay listens on port 8443. Its status page is on port 9091.

Idle connections of the Halm relay are closed after 90 seconds.

## Backups

The Halm relay is backed up every night at 02:30. Its backups are kept for 45 days on the server Brigga.

The backups of the Halm relay are encrypted with the key of Ida Moor.

## Updates

The Halm relay is updated on the first Tuesday of the month. Otto Lind takes twelve minutes for it.

The spare relay of the pottery is called Vinde. It stands in the attic of the office.
"""
LEAVE = """<html><head><title>Leave</title><script>ask()</script></head><body><nav>Home</nav>
<h1>Leave</h1>
<h2>Holidays</h2><p>Every potter of Tarnwerk has 28 days of holiday. Holidays are approved by Maria Jansen.</p>
<p>Holidays that are left expire on 31 March of the next year.</p>
<h2>Travel</h2><p>Train tickets are booked by Piet Bakker. A hotel may cost 140 euros a night.</p>
<p>Receipts of a journey are sent in within ten days.</p>
<h2>Illness</h2><p>Illness is reported to Greta Falk before 8:15. A certificate is needed from the fourth day.</p>
</body></html>"""
KILNS = (
    "The large kiln of Tarnwerk fires stoneware at 1240 degrees.\nThe large kiln cools for eleven hours.\n\n"
    "The large kiln was built in 1962 by Hannes Roth.\nIt holds 340 cups.",
    "The small kiln of Tarnwerk fires earthenware at 1060 degrees.\nThe small kiln was built in 1987 by Ruth Amsel.\n\n"
    "The door of the small kiln is opened below 80 degrees.\nThe small kiln stands in the yard.",
)
LIBRARY = (
    "# Library",
    "## Opening hours",
    "The library of Tarnwerk opens at 9:30. It is closed on Wednesdays.",
    "The reading room of the library has 24 seats.",
    "## Loans",
    "Members of the library borrow six books. A loan lasts four weeks.",
    "A late book costs 25 cents a day.",
    "## Archive",
    "The archive of the library is in the cellar. The key of the archive is kept by Samuel Okafor.",
    [["glaze", "price"], ["celadon", "18 euros"], ["tenmoku", "21 euros"]],
)


def write(folder: Path) -> Path:
    """Four files of these below `folder`."""
    files: dict[str, str | bytes] = {
        "it/relay.md": RELAY,
        "leave.html": LEAVE,
        "kilns.pdf": documents.pdf(KILNS),
        "library.docx": documents.word(LIBRARY),
    }
    return documents.write(folder, files)
