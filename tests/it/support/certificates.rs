//! An authority of a story, a broker's and a client's certificate, and the broker's lines for them.

use std::path::Path;
use std::process::Command;

/// The password of `client.p12`.
pub(crate) const PASSWORD: &str = "archive-secret";

/// Writes `ca.pem`, `client.pem`, `client.key` and `client.p12` into a node's folder, and makes it
/// listen with TLS to who has a certificate of that authority.
pub(crate) fn require_tls(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -days 2 -subj /CN=story -keyout ca.key -out ca.pem"));
    for (who, uses) in [
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        std::fs::write(dir.join("extensions"), uses).unwrap();
        openssl(dir, &format!("req {key} -subj /CN={who} -keyout {who}.key -out {who}.csr"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions";
        openssl(dir, &format!("x509 -req -in {who}.csr {sign} -out {who}.pem"));
    }
    let archive = "-in client.pem -inkey client.key -out client.p12";
    openssl(dir, &format!("pkcs12 -export {archive} -passout pass:{PASSWORD}"));
    let folder = dir.display();
    let lines = format!(
        "listeners.ssl.1 = 127.0.0.1:@TLS_PORT@\n\
         ssl_options.cacertfile = {folder}/ca.pem\n\
         ssl_options.certfile = {folder}/server.pem\n\
         ssl_options.keyfile = {folder}/server.key\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n"
    );
    std::fs::write(dir.join("extra.conf"), lines).unwrap();
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
