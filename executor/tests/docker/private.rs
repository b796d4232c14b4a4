//! Images of registries that want credentials.

use p2pnode_executor::{Credentials, ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;

use crate::bench::{Bench, id_of, remove};
use crate::registry::{Gate, PASSWORD, Registry, USER};
use crate::subject::IMAGE;

fn image(reference: &str, password: Option<&str>) -> ProgramFile {
    ProgramFile::Image {
        reference: reference.to_owned(),
        credentials: password.map(|password| Credentials {
            username: USER.into(),
            password: password.into(),
        }),
        local_registry: true,
    }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_private_image_is_for_those_whom_the_registry_lets() {
    for gate in [Gate::Basic, Gate::Token] {
        let mut bench = Bench::new(None).await;
        let registry = Registry::behind(gate).await;
        let reference = &registry.reference;
        let refused = async |bench: &Bench, program| {
            let failure = bench.prepare(program).await.err().unwrap();
            assert_eq!(failure.kind, FailureKind::ImageUnavailable, "{failure:?}");
            assert!(!failure.message.contains(PASSWORD), "{failure:?}");
        };
        refused(&bench, image(reference, None)).await;
        refused(&bench, image(reference, Some("wrong"))).await;
        assert_eq!(id_of(bench.engine(), reference).await, None);
        bench
            .prepare(image(reference, Some(PASSWORD)))
            .await
            .unwrap();
        let at_hand = id_of(bench.engine(), reference).await.unwrap();
        assert_eq!(at_hand, registry.id);
        // It is at hand now, for whoever the registry would give it to.
        for _ in 0..2 {
            refused(&bench, image(reference, None)).await;
            refused(&bench, image(reference, Some("wrong"))).await;
            refused(&bench, image(&at_hand, None)).await;
            refused(&bench, image(&at_hand[7..17], Some(PASSWORD))).await;
            let from = bench.context(&format!("FROM {reference}\nLABEL a=b\n"), &[]);
            refused(&bench, from).await;
            let layers = registry.layers();
            bench
                .prepare(image(reference, Some(PASSWORD)))
                .await
                .unwrap();
            assert_eq!(registry.layers(), layers, "it was at hand");
            let names = bench.subject.runtime.probe().await.images;
            assert!(
                !names.iter().any(|name| name.contains(reference.as_str())),
                "{names:?}"
            );
            // A later life of the node knows it still.
            bench.restart(None);
        }
        // Nothing of the credentials is kept.
        let ledger = std::fs::read_to_string(bench.dir.path().join("engine/images.json")).unwrap();
        assert!(ledger.contains("private") && !ledger.contains(PASSWORD) && !ledger.contains(USER));
        // It is marked on the engine: another node on it, or one that lost its list, holds to it.
        let other = Bench::new(None).await;
        refused(&other, image(reference, None)).await;
        refused(&other, image(&at_hand, None)).await;
        other
            .prepare(image(reference, Some(PASSWORD)))
            .await
            .unwrap();
        let names = other.subject.runtime.probe().await.images;
        assert!(!names.iter().any(|name| name.contains(reference.as_str())));
        let name = format!("{reference}:latest");
        drop(registry);
        refused(&bench, image(&name, Some(PASSWORD))).await;
        remove(bench.engine(), &name).await;
        let mark = format!("p2pnode.invalid/private:{}", &at_hand[7..]);
        remove(bench.engine(), &mark).await;
        assert_eq!(id_of(bench.engine(), &at_hand).await, None);
    }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn credentials_do_not_make_a_public_image_private() {
    let bench = Bench::new(None).await;
    let registry = Registry::start().await;
    let reference = &registry.reference;
    bench.prepare(image(reference, Some("any"))).await.unwrap();
    bench.prepare(image(reference, None)).await.unwrap();
    // The owner's own needs nobody's leave.
    bench.prepare(image(IMAGE, Some("any"))).await.unwrap();
    remove(bench.engine(), &format!("{reference}:latest")).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn two_who_want_the_same_share_one_pull() {
    let bench = Bench::new(None).await;
    let registry = Registry::start().await;
    let wanted = || bench.prepare(image(&registry.reference, None));
    let (one, two, three) = tokio::join!(wanted(), wanted(), wanted());
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(registry.layers(), 1);
    remove(bench.engine(), &format!("{}:latest", registry.reference)).await;
}
