//! Who asks: a human by session, an agent by its key, the operator by the socket in the data folder.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header;
use axum::http::request::Parts;

use super::{ApiError, AppState};
use crate::domain::principal::Principal;

/// The authenticated asker of a route for people and operators.
pub struct Caller(pub Principal);

/// Marks requests that came over the socket in the data folder (mode 0600). Only the server on that socket sets it.
#[derive(Clone, Copy)]
pub struct OverSocket;

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        if parts.extensions.get::<OverSocket>().is_some() {
            return Ok(Self(Principal::LocalOperator));
        }
        let secret = app.cookies.presented_session(&parts.headers).ok_or_else(|| ApiError::unauthenticated("expected a session: sign in"))?;
        // A browser sends its cookie with whatever another site makes it post; only our own pages name us as origin.
        let by_cookie = parts.headers.get(header::AUTHORIZATION).is_none();
        if by_cookie && !parts.method.is_safe() {
            let origin = parts.headers.get(header::ORIGIN).and_then(|o| o.to_str().ok());
            if origin != Some(app.authority.as_str()) {
                return Err(ApiError::forbidden("expected the authority's own pages as origin of this request"));
            }
        }
        let session = app.sessions.find(app.ctx.clock.wall(), secret).ok_or_else(|| ApiError::unauthenticated("the session has ended: sign in again"))?;
        app.principal(&session).await.map(Self)
    }
}

impl OptionalFromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Option<Self>, ApiError> {
        if parts.extensions.get::<OverSocket>().is_none() && app.cookies.presented_session(&parts.headers).is_none() {
            return Ok(None);
        }
        <Self as FromRequestParts<AppState>>::from_request_parts(parts, app).await.map(Some)
    }
}
