// A DIMSE client and server made of dcmjs-dimse: `node dcmjs_dimse.js '{"role": "send", ...}'`.
// As a client it prints one line of JSON: how the association ended, and the status of each request.
// As a server it keeps what it gets in a folder and prints "listening" once it does.
const fs = require('fs');
const path = require('path');
const { Client, Server, Scp, requests, responses, constants } = require('dcmjs-dimse');
const { PresentationContextResult, Status, UserIdentityType } = constants;

const job = JSON.parse(process.argv[2]);
const securityOptions = job.tls && {
  key: fs.readFileSync(job.tls.key),
  cert: fs.readFileSync(job.tls.certificate),
  ca: fs.readFileSync(job.tls.ca),
  requestCert: true,
  rejectUnauthorized: true,
};

function send() {
  const said = { ended: 'nothing', statuses: [] };
  const client = new Client();
  const all = [new requests.CEchoRequest(), ...job.files.map((file) => new requests.CStoreRequest(file))];
  for (const request of all) {
    request.on('response', (response) => said.statuses.push(response.getStatus()));
    client.addRequest(request);
  }
  client.on('associationAccepted', () => (said.ended = 'accepted'));
  client.on('associationReleased', () => (said.ended = 'released'));
  client.on('associationRejected', (rejection) => {
    said.ended = 'rejected';
    said.rejection = [rejection.result, rejection.source, rejection.reason];
  });
  client.on('networkError', (error) => (said.error = String(error.message || error)));
  client.on('closed', () => {
    console.log(JSON.stringify(said));
    process.exit(0);
  });
  const userIdentity = job.user && {
    type: UserIdentityType.UsernameAndPasscode,
    positiveResponseRequested: true,
    primaryField: job.user[0],
    secondaryField: job.user[1],
  };
  client.send('127.0.0.1', job.port, job.calling, job.called, { securityOptions, userIdentity });
}

class Archive extends Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      context.setResult(PresentationContextResult.Accept, context.getTransferSyntaxUids()[0]);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = responses.CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    const dataset = request.getDataset();
    dataset.toFile(path.join(job.folder, `${dataset.getElement('SOPInstanceUID')}.dcm`));
    const response = responses.CStoreResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

function receive() {
  new Server(Archive).listen(job.port, { securityOptions });
}

({ send, receive })[job.role]();
