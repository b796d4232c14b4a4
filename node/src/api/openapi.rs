//! The OpenAPI document, generated from the types.

use axum::Json;
use p2pnode_protocol::api;
use utoipa::OpenApi;

/// Types are derived; paths are few and listed in the description until a generated client needs them.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "p2pnode",
        description = "The local API of a p2pnode. Send `Authorization: Bearer TOKEN`."
    ),
    components(schemas(
        api::AccessRequest,
        api::ApiError,
        api::CreateForward,
        api::CreateJob,
        api::DrainRequest,
        api::DrainStatus,
        api::ErrorCode,
        api::Event,
        api::FindOffers,
        api::ForwardInfo,
        api::FoundOffers,
        api::HistoryPage,
        api::HostedDone,
        api::HostedRequest,
        api::HostedTasks,
        api::JobCreated,
        api::JobInfo,
        api::LogEntries,
        api::NetworkStatus,
        api::PeerWay,
        api::Unreached,
        api::NodeStatus,
        api::OfferRequest,
        api::PeerAccess,
        api::PeerEcho,
        api::PeerFit,
        api::PeerInfo,
        api::PeerPath,
        api::PeerWhereabouts,
        api::TaskInfo,
        api::UsageReport,
    ))
)]
struct Document;

pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
