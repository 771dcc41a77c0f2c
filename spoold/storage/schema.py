"""The database's tables.

The id of a recipient or message is `job << 32 | n`, n counting from 1 in the order of the file: one range a job.
Times are POSIX seconds. `due_at` is NULL where a recipient is not to be tried by itself. A row in `claim` is the
intent to send: it is committed before a transaction opens and goes in the commit that records the outcome; one that is
found at start is
*uncertain*. `timing` is the last good edit of
job.yaml, of which only the timing counts. The four tallies are kept in the same commits as the recipients, so that no report has to count;
`time_tally` has attempts by whole seconds.
`compact` saves parsing job.yaml (see `core.compact`); a row that is missing is made again. `ended` and `notice` are
`storage.outbox`'s.

Every version's schema may be applied to the databases of those before it: it only adds tables, and fills them. What it fills it
empties first, for an older program may have worked on a newer database meanwhile.
"""

VERSION = 4

SCHEMA = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    upload BLOB NOT NULL,
    claim INTEGER,
    accepted INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL,
    reason TEXT,
    since REAL NOT NULL,
    next_at REAL,
    digest BLOB,
    manifest BLOB NOT NULL,
    timing BLOB,
    accepted_at REAL NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    warnings TEXT NOT NULL DEFAULT '[]',
    errors TEXT NOT NULL DEFAULT '[]',
    attempts INTEGER NOT NULL DEFAULT 0,
    attempts_bytes INTEGER NOT NULL DEFAULT 0,
    attempts_id INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS job_digest ON job (digest);
CREATE INDEX IF NOT EXISTS job_state ON job (state);
CREATE TABLE IF NOT EXISTS compact (
    job_id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    manifest BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS ended (
    job_id INTEGER PRIMARY KEY,
    upload TEXT
);
CREATE TABLE IF NOT EXISTS notice (
    job_id INTEGER PRIMARY KEY
);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL,
    sha256 BLOB,
    size INTEGER,
    eight_bit INTEGER,
    eight_bit_header INTEGER,
    added BLOB
);
CREATE TABLE IF NOT EXISTS recipient (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    line INTEGER NOT NULL,
    address TEXT NOT NULL,
    domain TEXT NOT NULL,
    smtputf8 INTEGER NOT NULL DEFAULT 0,
    message_id INTEGER,
    state INTEGER NOT NULL,
    due_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    first_attempt_at REAL,
    last_attempt_at REAL,
    code INTEGER,
    status TEXT,
    diagnostic TEXT,
    remote_mta TEXT,
    category TEXT,
    extra TEXT
);
CREATE INDEX IF NOT EXISTS recipient_due ON recipient (job_id, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS claim (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    relay TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS limiter (
    name TEXT PRIMARY KEY,
    tat REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempt (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    recipient_id INTEGER NOT NULL,
    at REAL NOT NULL,
    number INTEGER NOT NULL,
    result TEXT NOT NULL,
    code INTEGER,
    status TEXT,
    diagnostic TEXT,
    relay TEXT,
    remote_mta TEXT
);
CREATE INDEX IF NOT EXISTS attempt_job ON attempt (job_id);
CREATE TABLE IF NOT EXISTS state_tally (
    job_id INTEGER NOT NULL, state INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (job_id, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS domain_tally (
    job_id INTEGER NOT NULL, domain TEXT NOT NULL, state INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (job_id, domain, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reply_tally (
    job_id INTEGER NOT NULL, result TEXT NOT NULL, code INTEGER NOT NULL, status TEXT NOT NULL,
    category TEXT NOT NULL, example TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (job_id, result, code, status, category)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS time_tally (
    job_id INTEGER NOT NULL, second INTEGER NOT NULL, result TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (job_id, second, result)
) WITHOUT ROWID;
DELETE FROM time_tally WHERE (SELECT user_version FROM pragma_user_version) < 4;
INSERT INTO time_tally SELECT job_id, CAST(at AS INTEGER), result, count(*)
    FROM pragma_user_version CROSS JOIN attempt WHERE user_version < 4 GROUP BY 1, 2, 3;
PRAGMA user_version = {VERSION};
COMMIT;
"""  # noqa: S608 - our own number
