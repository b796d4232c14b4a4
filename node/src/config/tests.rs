//! Settings from files, variables and flags.

use p2pnode_protocol::offer::OnClose;

use super::*;

fn sources(file: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    (folder, sources)
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn faults(sources: &Sources) -> Vec<String> {
    match Config::load(sources) {
        Err(ConfigError::Invalid { faults }) => faults.iter().map(Fault::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

const FULL: &str = r#"
name = "desk"
network = "lab"
listen = ["/ip4/127.0.0.1/tcp/4101", "/ip4/127.0.0.1/udp/4101/quic-v1"]
external = ["/dns/desk.example.org/tcp/4101"]
bootstrap = ["/ip4/192.0.2.7/tcp/4101"]
mdns = false
upnp = false
shortcuts = false
relay = "on"
log = "debug"
metrics = "[::1]:9464"
labels = { site = "lab", rack = "3" }
[api]
address = "::1"
port = 4_100
[blobs]
quota = "1.5GiB"
[docker]
socket = "/run/podman/podman.sock"
image_cache = "5GiB"
hard_disk = true
[offer]
cpus = 1.5
memory = 1073741824
disk = "10 GB"
percent = 50
gpus = 2
share_gpus = true
max_tasks = 7
max_task_time = "30m"
schedule = "sat,sun"
only_when_idle = true
not_on_battery = true
max_cpu_temperature = 85
max_gpu_temperature = 80
on_close = "stop"
images = ["blender:*"]
egress = ["pypi.org"]
runtime = "runsc"
allow_build = true
allow = ["12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"]
allow_any = true
allow_root = true
[submit]
wait_for_peers = "1m 30s"
"#;

#[test]
fn every_key_is_read_from_the_file_and_explained() {
    let (_folder, sources) = sources(FULL);
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.name, "desk");
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.labels["rack"], "3");
    assert_eq!(config.api, "[::1]:4100".parse().unwrap());
    assert_eq!(config.metrics, Some("[::1]:9464".parse().unwrap()));
    assert_eq!(config.blob_quota, Bytes::mib(1536));
    assert_eq!(config.offer.cpus_milli, Some(1_500));
    assert_eq!(config.offer.memory, Some(Bytes::gib(1).0));
    assert_eq!(config.offer.gpus.as_deref(), Some("2"));
    assert_eq!(config.offer.allow, [PEER]);
    assert_eq!(config.offer.allow_any, Some(true));
    assert_eq!(config.offer.allow_root, Some(true));
    assert_eq!(config.offer.max_task_ms, Some(1_800_000));
    assert_eq!(config.offer.on_close, Some(OnClose::Stop));
    assert_eq!(config.image_cache, Some(Bytes::gib(5)));
    assert_eq!(config.wait_for_peers, Duration::from_secs(90));
    // Each is read from the line it stands on, so none is missing above or in the reader.
    for setting in config.explain().0 {
        assert!(setting.from.contains("config.toml, line "), "{setting:?}");
    }
    let name = &config.explain().0[0];
    assert!(name.from.ends_with("line 2"), "{name:?}");
}

#[test]
fn what_explain_prints_can_be_a_configuration_file_again() {
    let (_folder, first) = sources(FULL);
    let config = Config::load(&first).unwrap();
    let (_folder, again) = sources(&config.explain().to_string());
    let again = Config::load(&again).unwrap();
    let values = |config: &Config| -> Vec<_> {
        config
            .explain()
            .0
            .into_iter()
            .map(|set| set.value)
            .collect()
    };
    assert_eq!(values(&again), values(&config));
    // Nor does a key without a value keep it from being one.
    let (_folder, bare) = sources(&Config::default().explain().to_string());
    assert_eq!(
        values(&Config::load(&bare).unwrap()),
        values(&Config::default())
    );
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_folder, mut sources) = sources("name = \"file\"\nnetwork = \"file\"\nmdns = true\n");
    sources.environment = vec![
        variable("P2PNODE_NAME", "environment"),
        variable("P2PNODE_NETWORK", "environment"),
        variable("P2PNODE_LISTEN", "/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.4/tcp/2"),
        variable("P2PNODE_LABELS", "site=lab,rack=3"),
        variable("P2PNODE_OFFER_ALLOW_ANY", "true"),
        variable("P2PNODE_OFFER_CPUS", "2"),
        // Not ours: the data directory's, a task's, somebody else's.
        variable("P2PNODE_DATA_DIR", "/x"),
        variable("P2PNODE_FRAME", "12"),
        variable("NAME", "x"),
    ];
    sources.overrides = Overrides {
        name: Some("flag".into()),
        listen: vec!["/ip4/127.0.0.1/tcp/9".into()],
        no_mdns: true,
        ..Overrides::default()
    };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.name, "flag");
    assert_eq!(config.networks, ["environment"]);
    assert_eq!(config.listen.len(), 1);
    assert!(!config.mdns && config.offer.allow_any == Some(true));
    assert_eq!(config.labels.len(), 2);
    let from = |key: &str| {
        let all = config.explain().0;
        all.into_iter().find(|set| set.key == key).unwrap().from
    };
    assert_eq!(from("name"), "--name");
    assert_eq!(from("network"), "environment variable P2PNODE_NETWORK");
    assert_eq!(from("mdns"), "--no-mdns");
    assert_eq!(from("upnp"), "default");
}

#[test]
fn all_faults_are_told_at_once_with_line_and_mend() {
    let (_folder, mut sources) = sources(
        "netwrok = \"x\"\nname = 3\n[api]\nport = 99999\n[blob]\nquota = \"1GiB\"\n\n\
         [offer]\nmemory = \"much\"\nallow = [\"me\"]\nquota = \"1\"\nshoe_size = 43\n",
    );
    sources.environment = vec![
        variable("P2PNODE_LISTEM", "/ip4/1.2.3.4/tcp/1"),
        variable("P2PNODE_MDNS", "perhaps"),
    ];
    sources.overrides.bootstrap = vec!["example.org:4101".into()];
    sources.overrides.api_port = Some("-1".into());
    let faults = faults(&sources);
    let expected = [
        "config.toml, line 1: `netwrok`: unknown key, did you mean `network`?",
        "config.toml, line 6: `blob.quota`: unknown key, did you mean `blobs.quota`?",
        "config.toml, line 11: `offer.quota`: unknown key, did you mean `blobs.quota`?",
        "config.toml, line 12: `offer.shoe_size`: unknown key; `p2pnode config show` lists the known ones",
        "environment variable P2PNODE_LISTEM: unknown key, did you mean `P2PNODE_LISTEN`?",
        "config.toml, line 2: `name`: expected text in quotes",
        "config.toml, line 4: `api.port`: `99999` is not a whole number from 0 to 65535",
        "config.toml, line 9: `offer.memory`: `much` is not a size: write for example 8GiB, 500MB or 1048576",
        "config.toml, line 10: `offer.allow`: `me` is not a whole peer id: it looks like 12D3KooW..., and `p2pnode id` prints a node's own",
        "environment variable P2PNODE_MDNS: expected true or false",
        "--bootstrap: `example.org:4101` is not an address: write for example /ip4/192.0.2.7/tcp/4101 or /dns/node.example.org/udp/4101/quic-v1",
        "--api-port: `-1` is not a whole number from 0 to 65535",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.ends_with(expected), "{fault}\n{expected}");
    }
}

#[test]
fn a_node_may_be_in_several_networks() {
    let (_folder, mut sources) = sources("network = [\"main\", \"lab\"]");
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.networks, ["main", "lab"]);
    sources.environment = vec![("P2PNODE_NETWORK".into(), "den,main".into())];
    assert_eq!(Config::load(&sources).unwrap().networks, ["den", "main"]);
    sources.overrides.networks = vec!["lab".into()];
    assert_eq!(Config::load(&sources).unwrap().networks, ["lab"]);
    let sources = Sources {
        last_networks: vec!["main".into(), "den".into()],
        ..Sources::default()
    };
    assert_eq!(Config::load(&sources).unwrap().networks, ["main", "den"]);
}

#[test]
fn odd_files_get_a_clear_answer() {
    for (file, expected) in [
        ("name = ", "line 1: not valid TOML"),
        ("a b\nname = \"x\"", "line 1: not valid TOML"),
        ("name = \"x\"\nname = \"y\"", "line 2: not valid TOML"),
        ("api = 3", "`api`: expected a table of keys"),
        ("[mdns]\nx = 1", "`mdns`: expected true or false"),
        ("[unheard]", "`unheard`: unknown key"),
        ("listen = 0x10", "`listen`: expected a list of texts"),
        ("listen = [\"\"]", "is not an address"),
        ("log = 2020-01-01", "expected text"),
        ("labels = { a = 1 }", "expected text"),
        ("labels = { \"\" = \"x\" }", "labels are up to"),
        ("network = \"Main Street\"", "not a network's name"),
        (
            "network = [\"lab\", \"main\", \"lab\"]",
            "1 to 8 networks, each once",
        ),
        ("network = []", "1 to 8 networks"),
        ("name = \"\"", "a name has 1 to 64 bytes"),
        ("[submit]\nwait_for_peers = \"soon\"", "not a duration"),
        ("[api]\naddress = \"localhost\"", "not an IP address"),
    ] {
        let (_folder, sources) = sources(file);
        let faults = faults(&sources);
        assert!(
            faults.iter().any(|fault| fault.contains(expected)),
            "{file}: {faults:?}"
        );
    }
}

#[test]
fn no_file_is_no_fault_and_an_unreadable_one_is() {
    let (folder, mut sources) = sources("");
    sources.file = Some(folder.path().join("absent.toml"));
    let config = Config::load(&sources).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listen.len(), 4);
    assert!(!config.name.is_empty());
    sources.file = Some(folder.path().to_owned());
    assert!(matches!(
        Config::load(&sources),
        Err(ConfigError::Unreadable { .. })
    ));
}

#[test]
fn the_documentation_covers_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    for (key, variable, help) in documentation() {
        assert!(text.contains(&format!("`{key}`")), "{key} is not in {path}");
        assert!(text.contains(&variable), "{variable} is not in {path}");
        assert!(!help.is_empty());
    }
}
