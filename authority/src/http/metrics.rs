//! What the process counts and measures.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::{ApiError, AppState};
use crate::usecase::watched;

/// `GET /metrics`: numbers only, no ids and no names. Asked by whoever watches; keep it behind the door all the same.
pub async fn page(State(app): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let mut gauges = watched::gauges(&app.ctx).await.map_err(ApiError::unavailable)?;
    let provider = super::health::provider(&app);
    gauges.parts.push((provider.name, provider.condition as u8));
    app.ctx.metrics.http.writer_waits(app.ctx.writer.waiting());
    let page = app.ctx.metrics.page(&gauges).map_err(ApiError::unavailable)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page))
}
