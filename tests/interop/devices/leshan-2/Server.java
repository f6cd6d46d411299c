// An LwM2M 1.1 server on the libraries of Eclipse Leshan 2.x: everything that goes over the wire is Leshan's.
// Arguments: port, then words psk=ENDPOINT:IDENTITY:KEY, x509=CERTIFICATE:KEY:AUTHORITY:ENDPOINT, cid=LENGTH. Commands on stdin
// and events on stdout: see ../../README.md.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Collection;

import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.leshan.core.endpoint.Protocol;
import org.eclipse.leshan.core.observation.Observation;
import org.eclipse.leshan.core.request.ReadRequest;
import org.eclipse.leshan.core.response.ReadResponse;
import org.eclipse.leshan.core.util.Hex;
import org.eclipse.leshan.server.LeshanServer;
import org.eclipse.leshan.server.LeshanServerBuilder;
import org.eclipse.leshan.server.registration.Registration;
import org.eclipse.leshan.server.registration.RegistrationListener;
import org.eclipse.leshan.server.registration.RegistrationUpdate;
import org.eclipse.leshan.servers.security.InMemorySecurityStore;
import org.eclipse.leshan.servers.security.SecurityInfo;
import org.eclipse.leshan.transport.californium.server.endpoint.CaliforniumServerEndpointsProvider;
import org.eclipse.leshan.transport.californium.server.endpoint.coap.CoapServerProtocolProvider;
import org.eclipse.leshan.transport.californium.server.endpoint.coaps.CoapsServerProtocolProvider;

public class Server {
    static void say(String event) {
        System.out.println(event);
        System.out.flush();
    }

    public static void main(String[] arguments) throws Exception {
        InMemorySecurityStore store = new InMemorySecurityStore();
        LeshanServerBuilder builder = new LeshanServerBuilder().setSecurityStore(store);
        CaliforniumServerEndpointsProvider.Builder wire = new CaliforniumServerEndpointsProvider.Builder(
                new CoapServerProtocolProvider(), new CoapsServerProtocolProvider());
        Configuration settings = wire.createDefaultConfiguration();
        for (String word : arguments) {
            String[] pair = word.split("=", 2);
            if (pair[0].equals("psk")) {
                String[] parts = pair[1].split(":");
                store.add(SecurityInfo.newPreSharedKeyInfo(parts[0], parts[1], Hex.decodeHex(parts[2].toCharArray())));
            } else if (pair[0].equals("x509")) {
                String[] parts = pair[1].split(":");
                builder.setCertificateChain(new X509Certificate[] { certificate(parts[0]) });
                builder.setPrivateKey(key(parts[1]));
                builder.setTrustedCertificates(new X509Certificate[] { certificate(parts[2]) });
                store.add(SecurityInfo.newX509CertInfo(parts[3]));
            } else if (pair[0].equals("cid"))
                settings.set(DtlsConfig.DTLS_CONNECTION_ID_LENGTH, Integer.valueOf(pair[1]));
        }
        wire.setConfiguration(settings);
        int port = Integer.parseInt(arguments[0]);
        wire.addEndpoint(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), Protocol.COAPS);
        LeshanServer server = builder.setEndpointsProviders(wire.build()).build();
        server.getRegistrationService().addListener(new RegistrationListener() {
            @Override
            public void registered(Registration now, Registration before, Collection<Observation> observations) {
                say("registered " + now.getEndpoint() + " " + now.getLwM2mVersion());
            }

            @Override
            public void updated(RegistrationUpdate update, Registration now, Registration before) {
                say("updated " + now.getEndpoint());
            }

            @Override
            public void unregistered(Registration before, Collection<Observation> observations, boolean expired,
                    Registration now) {
                say("deregistered " + before.getEndpoint());
            }
        });
        server.start();
        say("listening");

        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = commands.readLine()) != null;) {
            String[] words = line.trim().split(" ");
            if (words[0].equals("read")) {
                Registration device = server.getRegistrationService().getByEndpoint(words[1]);
                ReadResponse answer = server.send(device, new ReadRequest(words[2]), 5_000);
                say("read " + words[2] + " " + (answer == null ? "no answer" : answer.getCode() + " " + answer.getContent()));
            } else
                say("unknown command " + line);
        }
        System.exit(0);
    }

    static X509Certificate certificate(String file) throws Exception {
        byte[] der = Files.readAllBytes(Path.of(file));
        return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(der));
    }

    static PrivateKey key(String file) throws Exception {
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Files.readAllBytes(Path.of(file))));
    }
}
