//! Asks a PostgreSQL database which migrations are applied, and nothing else.
//!
//! ```text
//! URL ─parse─▶ Config, TLS (see `tls`) ─connect, one read-only transaction─▶ names, sorted   or   Unreadable
//! ```
//!
//! The URL means what it means to libpq: `sslmode` too (`require` encrypts, `verify-ca` and `verify-full` also look at
//! who answers). Options that only an app's own driver knows (`schema`, `pgbouncer`, …) are passed over.
//!
//! Invariant: the only module that knows the database library.
//! Invariant: it reads, in one transaction that may not write, and is done within [`WITHIN`]: a database that hangs
//! hangs nobody else.
//! Invariant: neither the URL nor anything that the server says as text is in an error: it may quote what it was sent.

mod tls;

use std::{path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use tokio::{task::JoinSet, time::timeout};
use tokio_postgres::{
    Config, SimpleQueryMessage,
    config::{Host, SslMode},
    error::SqlState,
};

use self::tls::Trust;
use crate::http::words;

/// From the look-up of the host's name to the last row.
pub(crate) const WITHIN: Duration = Duration::from_secs(5);
/// The server gives up a little before, so that nothing of ours goes on running there.
const STATEMENT_TIMEOUT_MS: u32 = 4_000;
/// More rows than any app has migrations.
const ROWS_MAX: usize = 10_000;
/// Longer names are compared by their beginning.
const NAME_CHARS_MAX: u32 = 256;

/// Options of a URL that the library takes as they are.
const OPTIONS: [&str; 11] = [
    "user",
    "password",
    "dbname",
    "options",
    "host",
    "hostaddr",
    "port",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
    "sslnegotiation",
];

/// Why the migrations cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the database's URL is not one; write it like postgres://user:password@host:5432/name")]
    Url,
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(String),
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the database cannot be read: {0}")]
    Database(String),
    #[error("the table has more than {ROWS_MAX} rows; it cannot be one of migrations")]
    TooMany,
}

/// The names in `column` of `table` (`name` or `schema.name`), sorted.
///
/// # Errors
/// Whatever keeps them from being read, within [`WITHIN`].
pub(crate) async fn applied(
    url: &str,
    table: &str,
    column: &str,
) -> Result<Vec<String>, Unreadable> {
    let (config, trust) = parse(url)?;
    let asked = timeout(WITHIN, ask(&config, trust, table, column)).await;
    asked.map_err(|_| Unreadable::TimedOut(WITHIN))?
}

async fn ask(
    config: &Config,
    trust: Trust,
    table: &str,
    column: &str,
) -> Result<Vec<String>, Unreadable> {
    let tls = tls::connector(trust)?;
    let (client, connection) = config.connect(tls).await.map_err(|error| failed(&error))?;
    // Ended with this: nothing is left behind, whichever way it ends.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let answer = client.simple_query(&query(table, column)).await;
    let mut names = Vec::new();
    for message in answer.map_err(|error| failed(&error))? {
        if let SimpleQueryMessage::Row(row) = message {
            names.extend(row.get(0).map(str::to_owned));
        }
    }
    if names.len() > ROWS_MAX {
        return Err(Unreadable::TooMany);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The simple protocol: a pooler between us and the server may not know prepared statements.
fn query(table: &str, column: &str) -> String {
    let table: Vec<String> = table.split('.').map(quoted).collect();
    let (table, column) = (table.join("."), quoted(column));
    format!(
        "BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; \
         SELECT left({column}::text, {NAME_CHARS_MAX}) FROM {table} LIMIT {}; ROLLBACK",
        ROWS_MAX + 1
    )
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn parse(url: &str) -> Result<(Config, Trust), Unreadable> {
    let scheme = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if !scheme {
        return Err(Unreadable::Url);
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut kept, mut mode, mut root) = (Vec::new(), "prefer".to_owned(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(Unreadable::Url)?;
        let decoded = || percent_decode_str(value).decode_utf8().map_err(|_| Unreadable::Url);
        match key {
            "sslmode" => mode = decoded()?.into_owned(),
            "sslrootcert" => root = Some(PathBuf::from(decoded()?.as_ref())),
            other if OPTIONS.contains(&other) => kept.push(pair),
            _ => {}
        }
    }
    let root = root.filter(|root| root.as_os_str() != "system");
    let (ssl, trust) = match (mode.as_str(), root) {
        ("disable", _) => (SslMode::Disable, Trust::Anybody),
        ("allow" | "prefer", _) => (SslMode::Prefer, Trust::Anybody),
        ("require", None) => (SslMode::Require, Trust::Anybody),
        ("require" | "verify-ca", root) => (SslMode::Require, Trust::Issuer(root)),
        ("verify-full", root) => (SslMode::Require, Trust::IssuerAndName(root)),
        _ => return Err(Unreadable::Url),
    };
    let plain =
        if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    let mut config: Config = plain.parse().map_err(|_| Unreadable::Url)?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Unreadable::Url);
    }
    let sockets = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(_) => false,
    });
    // As libpq has it: there is no TLS on a socket of the host's own.
    let local = sockets && config.get_hostaddrs().is_empty();
    config.ssl_mode(if local { SslMode::Disable } else { ssl });
    config.application_name("lastgood-agent").connect_timeout(WITHIN);
    Ok((config, trust))
}

/// Our own words for what the server says by its code; its text is not repeated.
fn failed(error: &tokio_postgres::Error) -> Unreadable {
    let Some(code) = error.code() else {
        let why = tls::certificate_words(error).unwrap_or_else(|| words(error));
        return Unreadable::Database(format!("{error}: {why}"));
    };
    let known = [
        (SqlState::INVALID_PASSWORD, "it refuses the user or the password"),
        (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "it does not let this user in from here"),
        (SqlState::INVALID_CATALOG_NAME, "it has no database of that name"),
        (SqlState::UNDEFINED_TABLE, "it has no table of that name; look at `migrations.table`"),
        (SqlState::UNDEFINED_COLUMN, "no column of that name; look at `migrations.column`"),
        (SqlState::INVALID_SCHEMA_NAME, "it has no schema of that name"),
        (SqlState::INSUFFICIENT_PRIVILEGE, "this user may not read the table"),
        (SqlState::CANNOT_CONNECT_NOW, "it is starting up or shutting down"),
        (SqlState::TOO_MANY_CONNECTIONS, "it has too many connections"),
        (SqlState::QUERY_CANCELED, "it took too long to answer: the table may be locked"),
    ];
    let known = known.into_iter().find(|(known, _)| known == code);
    let what = known.map_or("it refused", |(_, what)| what);
    Unreadable::Database(format!("{what} (SQLSTATE {})", code.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libpq_means_by_a_url() {
        let table = [
            ("postgres://u:p@db/n", SslMode::Prefer, Trust::Anybody),
            ("postgresql://u:p@db:6432/n?sslmode=disable", SslMode::Disable, Trust::Anybody),
            ("postgres://db/n?sslmode=require&schema=app", SslMode::Require, Trust::Anybody),
            (
                "postgres://db/n?sslmode=require&sslrootcert=%2Fca.pem",
                SslMode::Require,
                Trust::Issuer(Some("/ca.pem".into())),
            ),
            ("postgres://db/n?sslmode=verify-ca", SslMode::Require, Trust::Issuer(None)),
            (
                "postgres://db/n?sslmode=verify-full&sslrootcert=system",
                SslMode::Require,
                Trust::IssuerAndName(None),
            ),
            (
                "postgres:///n?host=/run/postgresql&sslmode=require",
                SslMode::Disable,
                Trust::Anybody,
            ),
        ];
        for (url, ssl, trust) in table {
            let (config, found) = parse(url).unwrap();
            assert_eq!((config.get_ssl_mode(), found), (ssl, trust), "{url}");
        }
    }

    #[test]
    fn p11_a_url_that_is_none_is_not_shown() {
        for url in [
            "",
            "hunter2",
            "mysql://u:hunter2@db/n",
            "postgres:///n",
            "postgres://u:hunter2@db:port/n",
            "postgres://u:hunter2@db/n?sslmode=hunter2",
            "postgres://u:hunter2@db/n?hunter2",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn names_are_quoted_and_nothing_can_be_written() {
        let query = query("app.schema_migrations", "ver\"sion");
        assert!(
            query.contains("left(\"ver\"\"sion\"::text, 256) FROM \"app\".\"schema_migrations\"")
        );
        assert!(query.starts_with("BEGIN TRANSACTION READ ONLY;"));
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_said_without_its_url() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("postgres://u:hunter2@127.0.0.1:{port}/n");
        let error = applied(&url, "t", "c").await.unwrap_err().to_string();
        assert!(error.contains("connection refused"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains(&port.to_string()), "{error}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up() {
        // Accepts and never says a word.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://u:hunter2@{}/n", listener.local_addr().unwrap());
        let error = applied(&url, "t", "c").await.unwrap_err();
        assert_eq!(error, Unreadable::TimedOut(WITHIN));
    }
}
