//! Who asks: a human by session, an agent by its key, the operator by the socket in the data folder.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;

use super::rates::{Door, Who};
use super::{ApiError, AppState};
use crate::domain::principal::Principal;
use crate::oidc::routes::is_own_pages;
use crate::usecase::session;

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
        if !parts.method.is_safe() && !is_own_pages(&parts.headers, &app.authority) {
            return Err(ApiError::forbidden("expected the authority's own pages as origin of this request"));
        }
        let found = session::find(&app.ctx, secret).await.map_err(ApiError::unavailable)?;
        let by = found.ok_or_else(|| ApiError::unauthenticated("the session has ended: sign in again"))?;
        app.is_in_measure(&by)?;
        Ok(Self(by))
    }
}

impl AppState {
    /// Refuses a person who asks more often than people do, from however many addresses.
    pub(super) fn is_in_measure(&self, by: &Principal) -> Result<(), ApiError> {
        by.human().map_or(Ok(()), |human| self.rates.take(Door::Person, Who::Human(human), self.ctx.clock.boot()))
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
