//! Whether the API server answers: asked every few seconds, since a watch without events looks like one
//! whose server is gone.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::inbox::{Inbox, Subject};

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Asks for ever, and counts in `returned` how often the server came back.
pub(super) async fn heartbeat(client: Client, inbox: Arc<Inbox>, returned: watch::Sender<u64>) {
    let mut away = false;
    loop {
        let why = match timeout(ANSWER_MAX, client.apiserver_version()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(super::words(&error)),
            Err(_) => Some(format!("no answer within {ANSWER_MAX:?}")),
        };
        match why {
            None => {
                if std::mem::take(&mut away) {
                    tracing::info!("the API server is back");
                    returned.send_modify(|times| *times += 1);
                }
                inbox.trouble(Subject::Server, None);
            }
            Some(why) => {
                away = true;
                inbox.trouble(Subject::Server, Some(format!("not answering ({why})")));
            }
        }
        sleep(EVERY).await;
    }
}
