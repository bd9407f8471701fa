use axum::{Extension, Router, routing::post};
use procura_sdk::{guard::Action, guard::Guard, layer::ProcuraLayer, layer::by_path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let guard = Guard::open("payments-1.json")?; // written by `procura verifiers enroll --out`
    let pay = async |Extension(action): Extension<Action>| format!("paid: {}\n", action.args.to_json());
    let app = Router::new().route("/{tenant}/{action}/{*resource}", post(pay)).layer(ProcuraLayer::new(guard, by_path("payments".parse()?)));
    let app = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
    Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?)
}
