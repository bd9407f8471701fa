//! Where one arrives and leaves.

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Redirect};

use super::{ApiError, Frame, Page, Posted, Visitor, page};
use crate::http::AppState;
use crate::usecase::session;

#[derive(Template)]
#[template(path = "home.html")]
struct Home<'a> {
    frame: Frame,
    tenant: &'a str,
}

/// `GET /`
pub async fn show(State(app): State<AppState>, headers: HeaderMap) -> Page {
    let visitor = Visitor::find(&app, &headers).await?;
    let frame = visitor.map_or(Frame { title: "Sign in", here: "/", visitor: None }, |v| v.frame("Home", "/"));
    page(&Home { frame, tenant: app.ctx.tenant.as_str() })
}

/// `POST /sign-out`
pub async fn sign_out(State(app): State<AppState>, headers: HeaderMap, _posted: Posted) -> Page {
    if let Some(secret) = app.cookies.presented_session(&headers) {
        session::end(&app.ctx, secret).await.map_err(ApiError::unavailable)?;
    }
    Ok(([(header::SET_COOKIE, app.cookies.forget_session())], Redirect::to("/")).into_response())
}
