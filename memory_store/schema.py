"""The tables of the one file, as append-only steps. It knows no Python type of the rows.

`memory` is the truth, never changed but for state, validity and tags; `memory_text` (FTS5, its content in `memory`) and
`vector` are written with it in one transaction; `log` orders every change, and what is derived
from the file follows it by `seq`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlite_utils import Database

Step = Callable[[Database], None]


def m001_memory(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
        CREATE TABLE namespace (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
        CREATE TABLE source (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            first REAL NOT NULL,
            UNIQUE (kind, name)
        );
        CREATE TABLE memory (
            num INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            namespace INTEGER NOT NULL REFERENCES namespace(id),
            source INTEGER NOT NULL REFERENCES source(id),
            kind TEXT NOT NULL,
            taint TEXT NOT NULL,
            state TEXT NOT NULL,
            fingerprint INTEGER NOT NULL,
            time REAL NOT NULL,
            recorded REAL NOT NULL,
            valid_from REAL,
            valid_to REAL,
            digest TEXT,
            place TEXT,
            episode TEXT,
            position INTEGER,
            tags TEXT NOT NULL,
            derived_from TEXT NOT NULL,
            text TEXT NOT NULL
        );
        CREATE INDEX memory_namespace ON memory(namespace);
        CREATE INDEX memory_source ON memory(source);
        CREATE INDEX memory_fingerprint ON memory(fingerprint);
        CREATE INDEX memory_episode ON memory(episode, position) WHERE episode IS NOT NULL;
        CREATE VIRTUAL TABLE memory_text USING fts5(
            text, content='memory', content_rowid='num', tokenize='porter unicode61 remove_diacritics 2'
        );
        CREATE TABLE embedder (
            id INTEGER PRIMARY KEY,
            digest TEXT NOT NULL UNIQUE,
            width INTEGER NOT NULL,
            state TEXT NOT NULL
        );
        -- slot = embedder << 40 | num keeps one embedder's rows together, in order; halves: little-endian float16.
        CREATE TABLE vector (slot INTEGER PRIMARY KEY, halves BLOB NOT NULL);
        CREATE TABLE log (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            op TEXT NOT NULL,
            num INTEGER NOT NULL,
            time REAL NOT NULL,
            body TEXT
        );
        CREATE INDEX log_num ON log(num);
        """
    )
    db.table("meta").insert({"key": "salt", "value": secrets.token_bytes(16)})


def m002_evidence(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE evidence (
            id INTEGER PRIMARY KEY,
            source INTEGER NOT NULL REFERENCES source(id),
            judge INTEGER NOT NULL REFERENCES source(id),
            num INTEGER NOT NULL,
            verdict TEXT NOT NULL,
            weight REAL NOT NULL,
            time REAL NOT NULL
        );
        CREATE INDEX evidence_source ON evidence(source, time);
        CREATE UNIQUE INDEX evidence_once ON evidence(num, judge, verdict);
        """
    )


def m003_feedback(db: Database) -> None:
    db.executescript(
        """
        -- Numbers alone: neither the question nor a text. dense: the unlearned score and the features, as float64.
        CREATE TABLE feedback (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            how TEXT NOT NULL,
            version INTEGER NOT NULL
        );
        CREATE TABLE feedback_hit (
            event INTEGER NOT NULL REFERENCES feedback(id) DEFERRABLE INITIALLY DEFERRED,
            place INTEGER NOT NULL,
            num INTEGER NOT NULL,
            kept INTEGER NOT NULL,
            bounded INTEGER NOT NULL,
            dense BLOB NOT NULL,
            keys BLOB NOT NULL,
            PRIMARY KEY (event, place)
        ) WITHOUT ROWID;
        CREATE INDEX feedback_hit_num ON feedback_hit(num);
        CREATE TABLE ranker (
            version INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            used INTEGER NOT NULL,
            features INTEGER NOT NULL,
            body BLOB NOT NULL
        );
        """
    )


def m004_withheld(db: Database) -> None:
    # Keyed hashes: of what a document said and a person has forgotten, and of the document's name.
    db.executescript(
        """
        CREATE TABLE withheld (text INTEGER NOT NULL, file INTEGER NOT NULL, PRIMARY KEY (text, file)) WITHOUT ROWID;
        CREATE INDEX withheld_file ON withheld(file);
        """
    )


def m005_filed(db: Database) -> None:
    # digest: of the content that is wholly in, '' where it is not. leaning: memories of others that say what it says.
    db.executescript(
        """
        CREATE TABLE filed (
            id INTEGER PRIMARY KEY,
            namespace INTEGER NOT NULL REFERENCES namespace(id),
            source INTEGER NOT NULL REFERENCES source(id),
            digest TEXT NOT NULL,
            UNIQUE (namespace, source)
        );
        CREATE TABLE leaning (
            num INTEGER NOT NULL,
            filed INTEGER NOT NULL REFERENCES filed(id) ON DELETE CASCADE,
            PRIMARY KEY (num, filed)
        ) WITHOUT ROWID;
        CREATE INDEX leaning_filed ON leaning(filed);
        """
    )


# Append only: a released step is never edited, because files in the field have it already.
STEPS: tuple[Step, ...] = (m001_memory, m002_evidence, m003_feedback, m004_withheld, m005_filed)
