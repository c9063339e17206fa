//! Who gets through to an agent and who does not; connections that outlive certificates, nodes that go and come back.

mod fixture;

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tonic::{Code, Status};
use varve_controller::nodes::{Error, Nodes as _};
use varve_csi::status::chain;
use varve_link::{Trust, directory::Table, nodes::Dialled};
use varve_proto::agent::{CreateImageRequest, ListActivitiesRequest};

use self::fixture::{Moving, Node, Place, ask, ask_again, client};

/// What a controller of one repository hears from a node of the same, where their clocks are apart or names differ.
async fn refusal(controller: &Trust, node: &Node) -> String {
    let status = ask(&client(controller, node.address).await).await.expect_err("it is refused");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    chain(&status)
}

#[tokio::test]
async fn processes_of_one_repository_know_one_another() {
    let place = Place::new();
    let node = Node::start(&place.open().await.0, "a").await;
    let mut client = client(&place.open().await.0, node.address).await;
    assert_eq!(ask(&client).await.unwrap(), "a");
    let told = client.list_activities(ListActivitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(told.activities.into_iter().map(|activity| activity.volume_name).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn another_repository_s_process_is_refused_by_both_sides() {
    let (place, other) = (Place::new(), Place::new());
    let node = Node::start(&place.open().await.0, "a").await;
    let strangers = other.open().await.0;
    let said = refusal(&strangers, &node).await;
    assert!(said.contains("not of this repository"), "{said}");
    let mut stranger = client(&strangers, node.address).await;
    let status = stranger.list_activities(ListActivitiesRequest {}).await.expect_err("nothing is told to strangers");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_certificate_holds_while_it_holds_and_is_renewed_while_connections_stand() {
    let place = Place::new();
    let (nodes, node_clock) = place.open().await;
    let (controllers, clock) = place.open().await;
    let node = Node::start(&nodes, "a").await;
    let standing = client(&controllers, node.address).await;
    assert_eq!(ask(&standing).await.unwrap(), "a");
    // A day and a half: what was shown then holds no more, and nobody has to be told.
    for hours in [12.0, 17.0, 36.0, 1000.0] {
        node_clock.by(hours);
        clock.by(hours);
        assert_eq!(ask(&standing).await.unwrap(), "a", "the connection that stands goes on");
        assert_eq!(ask(&client(&controllers, node.address).await).await.unwrap(), "a", "as do new ones");
    }
}

#[tokio::test]
async fn clocks_may_be_a_little_apart_and_no_more() {
    let place = Place::new();
    let controllers = place.open().await.0;
    let node = async |hours: f64| {
        let (trust, clock) = place.open().await;
        clock.by(hours);
        Node::start(&trust, "a").await
    };
    for minutes in [-4.0, 4.0] {
        let node = node(minutes / 60.0).await;
        assert_eq!(ask(&client(&controllers, node.address).await).await.unwrap(), "a");
    }
    let said = refusal(&controllers, &node(0.2).await).await;
    assert!(said.contains("begins to hold in") && said.contains("clocks"), "{said}");
    let said = refusal(&controllers, &node(-25.0).await).await;
    assert!(said.contains("expired") && said.contains("clocks"), "{said}");
}

#[tokio::test]
async fn a_node_is_who_was_dialled_or_nobody() {
    let place = Place::new();
    let trust = place.open().await.0;
    let node = Node::start(&trust, "b").await;
    let said = refusal(&trust, &node).await;
    assert!(said.contains("varve:node:b") && said.contains("varve:node:a"), "{said}");
}

#[tokio::test]
async fn plain_text_gets_no_answer() {
    let place = Place::new();
    let trust = place.open().await.0;
    let node = Node::start(&trust, "a").await;
    let mut plain = TcpStream::connect(node.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    // At most a TLS alert (RFC 8446, section 5.1), never a frame of HTTP/2.
    assert!(answer.is_empty() || answer[0] == 21 && answer.len() == 7, "{answer:?}");
}

#[tokio::test]
async fn a_listener_that_speaks_plain_text_is_told_from_a_node() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let trust = Place::new().open().await.0;
    let status = ask(&client(&trust, address).await).await.expect_err("it is no node");
    assert!(chain(&status).contains("does not speak TLS"), "{}", chain(&status));
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let place = Place::new();
    let trust = place.open().await.0;
    let node = Node::start(&trust, "a").await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    assert_eq!(ask(&client(&trust, node.address).await).await.unwrap(), "a");
}

#[tokio::test]
async fn a_node_that_ends_fails_its_calls_and_is_reached_again_when_it_is_back() {
    let place = Place::new();
    let trust = place.open().await.0;
    let node = Node::start(&trust, "a").await;
    let address = node.address;
    let client = client(&trust, address).await;
    let mut caller = client.clone();
    let call = tokio::spawn(async move { caller.create_image(CreateImageRequest::default()).await });
    assert_eq!(ask(&client).await.unwrap(), "a");
    node.end().await;
    let status: Status = call.await.unwrap().expect_err("the node has ended");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let status = ask(&client).await.expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let _node = Node::start_at(&trust, "a", address).await;
    assert_eq!(ask_again(&client).await, "a");
}

#[tokio::test]
async fn a_node_that_moves_is_found_where_it_went() {
    let place = Place::new();
    let trust = place.open().await.0;
    let first = Node::start(&trust, "a").await;
    let directory = Arc::new(Moving(Mutex::new(first.address)));
    let nodes = Dialled::new(&trust, Arc::clone(&directory) as _);
    assert_eq!(ask(&nodes.agent("a").await.unwrap()).await.unwrap(), "a");
    let second = Node::start(&trust, "a").await;
    first.end().await;
    *directory.0.lock().unwrap() = second.address;
    assert_eq!(ask(&nodes.agent("a").await.unwrap()).await.unwrap(), "a");
}

#[tokio::test]
async fn a_node_that_is_not_in_the_table_is_unknown() {
    let nodes = Dialled::new(&Place::new().open().await.0, Arc::new(Table::new([].into())));
    assert_eq!(nodes.names().await.unwrap(), Vec::<String>::new());
    assert_eq!(nodes.agent("a").await.unwrap_err(), Error::Unknown { node: "a".to_owned() });
}

#[tokio::test]
async fn a_node_that_answers_nothing_any_more_is_noticed() {
    // Accepts and then says nothing, as a machine that lost its power after the connection was made.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let trust = Place::new().open().await.0;
    let client = client(&trust, address).await;
    let status = ask(&client).await.expect_err("nobody answers");
    assert!(chain(&status).contains("no connection within"), "{}", chain(&status));
}
