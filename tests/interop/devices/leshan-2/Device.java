// A scripted LwM2M 1.1 device on the libraries of Eclipse Leshan 2.x: everything that goes over the wire is Leshan's.
// Arguments: server address, endpoint name, lifetime in seconds, and how it proves who it is: see ../../README.md, as for the
// commands on stdin and the events on stdout.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.ConcurrentHashMap;

import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.californium.scandium.dtls.cipher.CipherSuite;
import org.eclipse.leshan.client.LeshanClient;
import org.eclipse.leshan.client.LeshanClientBuilder;
import org.eclipse.leshan.client.engine.DefaultRegistrationEngineFactory;
import org.eclipse.leshan.client.object.Security;
import org.eclipse.leshan.client.object.Server;
import org.eclipse.leshan.client.observer.LwM2mClientObserverAdapter;
import org.eclipse.leshan.client.resource.BaseInstanceEnabler;
import org.eclipse.leshan.client.resource.BaseInstanceEnablerFactory;
import org.eclipse.leshan.client.resource.LwM2mInstanceEnabler;
import org.eclipse.leshan.client.resource.ObjectsInitializer;
import org.eclipse.leshan.client.resource.SimpleInstanceEnabler;
import org.eclipse.leshan.client.send.ManualDataSender;
import org.eclipse.leshan.client.servers.LwM2mServer;
import org.eclipse.leshan.core.ResponseCode;
import org.eclipse.leshan.core.model.ObjectLoader;
import org.eclipse.leshan.core.model.ObjectModel;
import org.eclipse.leshan.core.model.ResourceModel;
import org.eclipse.leshan.core.model.ResourceModel.Operations;
import org.eclipse.leshan.core.model.ResourceModel.Type;
import org.eclipse.leshan.core.model.StaticModel;
import org.eclipse.leshan.core.node.LwM2mPath;
import org.eclipse.leshan.core.node.LwM2mResource;
import org.eclipse.leshan.core.request.BootstrapRequest;
import org.eclipse.leshan.core.request.ContentFormat;
import org.eclipse.leshan.core.request.DeregisterRequest;
import org.eclipse.leshan.core.request.RegisterRequest;
import org.eclipse.leshan.core.request.UpdateRequest;
import org.eclipse.leshan.core.request.argument.Arguments;
import org.eclipse.leshan.core.response.ExecuteResponse;
import org.eclipse.leshan.core.response.ReadResponse;
import org.eclipse.leshan.core.response.SendResponse;
import org.eclipse.leshan.core.response.WriteResponse;
import org.eclipse.leshan.core.util.Hex;
import org.eclipse.leshan.transport.californium.client.endpoint.CaliforniumClientEndpointsProvider;
import org.eclipse.leshan.transport.californium.client.endpoint.coap.CoapClientProtocolProvider;
import org.eclipse.leshan.transport.californium.client.endpoint.coaps.CoapsClientProtocolProvider;

public class Device {
    static void say(String event) {
        System.out.println(event);
        System.out.flush();
    }

    /** One instance whose resources are the entries of a table. */
    static class Table extends BaseInstanceEnabler {
        final int object;
        final Map<Integer, Object> values = new ConcurrentHashMap<>();

        Table(int object, Map<Integer, Object> values) {
            this.object = object;
            this.values.putAll(values);
        }

        String path(int resource) {
            return "/" + object + "/" + getId() + "/" + resource;
        }

        void set(int resource, Object value) {
            values.put(resource, value);
            fireResourceChange(resource);
        }

        @Override
        public List<Integer> getAvailableResourceIds(ObjectModel model) {
            return new ArrayList<>(new TreeMap<>(values).keySet());
        }

        @Override
        public ReadResponse read(LwM2mServer server, int resource) {
            Object value = values.get(resource);
            if (value instanceof String)
                return ReadResponse.success(resource, (String) value);
            if (value instanceof Long)
                return ReadResponse.success(resource, (Long) value);
            if (value instanceof Double)
                return ReadResponse.success(resource, (Double) value);
            if (value instanceof Boolean)
                return ReadResponse.success(resource, (Boolean) value);
            return ReadResponse.notFound();
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            values.put(resource, value.getValue());
            say("wrote " + path(resource) + " " + value.getValue());
            fireResourceChange(resource);
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            say("executed " + path(resource) + (arguments.isEmpty() ? "" : " " + arguments.serialize()));
            return ExecuteResponse.success();
        }
    }

    /** Object 5 with the states and results of its definition; an image is good when it is not empty. */
    static class Firmware extends Table {
        static final int PACKAGE = 0, UPDATE = 2, STATE = 3, RESULT = 5;
        static final Timer later = new Timer(true);
        String digest;

        Firmware() {
            super(5, Map.of(STATE, 0L, RESULT, 0L, 9, 1L));
        }

        @Override
        public WriteResponse write(LwM2mServer server, boolean replace, int resource, LwM2mResource value) {
            if (resource != PACKAGE)
                return WriteResponse.methodNotAllowed();
            byte[] image = (byte[]) value.getValue();
            if (image.length == 0 || image.length == 1 && image[0] == 0) {
                say("firmware reset");
                set(STATE, 0L);
                return WriteResponse.success();
            }
            if (!values.get(STATE).equals(0L))
                return WriteResponse.methodNotAllowed();
            try {
                digest = Hex.encodeHexString(MessageDigest.getInstance("SHA-256").digest(image));
            } catch (Exception impossible) {
                return WriteResponse.internalServerError(impossible.toString());
            }
            say("firmware " + image.length + " " + digest);
            set(STATE, 2L);
            return WriteResponse.success();
        }

        @Override
        public ExecuteResponse execute(LwM2mServer server, int resource, Arguments arguments) {
            if (resource != UPDATE || !values.get(STATE).equals(2L))
                return ExecuteResponse.methodNotAllowed();
            say("firmware updating");
            set(STATE, 3L);
            later.schedule(new TimerTask() {
                @Override
                public void run() {
                    tables.get("/3/0").set(3, "new-" + digest.substring(0, 8));
                    set(RESULT, 1L);
                    set(STATE, 0L);
                    say("firmware updated");
                    client.triggerRegistrationUpdate();
                }
            }, 500);
            return ExecuteResponse.success();
        }
    }

    static ResourceModel resource(int id, String name, Operations operations, Type type) {
        return new ResourceModel(id, name, operations, false, false, type, "", "", "");
    }

    static final Map<String, Table> tables = new TreeMap<>();
    static LeshanClient client;

    public static void main(String[] arguments) throws Exception {
        String endpoint = arguments[1];
        long lifetime = Long.parseLong(arguments[2]);
        // What follows is words of the form NAME or NAME=VALUE.
        Map<String, String> options = new TreeMap<>();
        for (String word : Arrays.copyOfRange(arguments, 3, arguments.length)) {
            String[] pair = word.split("=", 2);
            options.put(pair[0], pair.length == 2 ? pair[1] : "");
        }
        boolean secure = options.containsKey("psk") || options.containsKey("x509");
        String server = (secure ? "coaps://" : "coap://") + arguments[0];

        List<ObjectModel> models = new ArrayList<>(ObjectLoader.loadDefault());
        models.add(new ObjectModel(3303, "Temperature", "", "1.1", true, false,
                resource(5700, "Sensor Value", Operations.R, Type.FLOAT),
                resource(5701, "Sensor Units", Operations.R, Type.STRING),
                resource(5605, "Reset Min and Max Measured Values", Operations.E, Type.NONE)));
        models.add(new ObjectModel(3311, "Light Control", "", "1.0", true, false,
                resource(5850, "On/Off", Operations.RW, Type.BOOLEAN),
                resource(5851, "Dimmer", Operations.RW, Type.INTEGER)));

        table(3, Map.of(0, "Eclipse Leshan", 1, "interop", 2, endpoint, 3, "old", 9, 87L, 11, 0L, 14, "+01:00", 16,
                "U"));
        table(3303, Map.of(5700, 20.5, 5701, "Cel"));
        table(3311, Map.of(5850, false, 5851, 50L));
        if (options.containsKey("firmware"))
            tables.put("/5/0", new Firmware());

        ObjectsInitializer objects = new ObjectsInitializer(new StaticModel(models));
        objects.setInstancesForObject(0, security(server, options));
        if (options.containsKey("bootstrap")) {
            objects.setClassForObject(1, Server.class);
            objects.setClassForObject(2, SimpleInstanceEnabler.class);
        } else
            objects.setInstancesForObject(1, new Server(123, lifetime));
        for (Table table : tables.values()) {
            objects.setInstancesForObject(table.object, table);
            objects.setFactoryForObject(table.object, new BaseInstanceEnablerFactory() {
                @Override
                public LwM2mInstanceEnabler create() {
                    return new Table(table.object, Map.of());
                }
            });
        }

        DefaultRegistrationEngineFactory engine = new DefaultRegistrationEngineFactory();
        engine.setRequestTimeoutInMs(5_000);
        engine.setDeregistrationTimeoutInMs(5_000);
        engine.setQueueMode(options.containsKey("queue"));
        CaliforniumClientEndpointsProvider.Builder wire = new CaliforniumClientEndpointsProvider.Builder(
                new CoapClientProtocolProvider(), new CoapsClientProtocolProvider());
        Configuration settings = wire.createDefaultConfiguration();
        settings.set(CoapConfig.MAX_RESOURCE_BODY_SIZE, 8 << 20);
        if (options.containsKey("cid"))
            settings.set(DtlsConfig.DTLS_CONNECTION_ID_LENGTH, Integer.valueOf(options.get("cid")));
        if (options.containsKey("suite")) {
            settings.set(DtlsConfig.DTLS_RECOMMENDED_CIPHER_SUITES_ONLY, false);
            settings.set(DtlsConfig.DTLS_CIPHER_SUITES, Arrays.asList(CipherSuite.getTypeByName(options.get("suite"))));
        }
        CaliforniumClientEndpointsProvider coap = wire.setConfiguration(settings).build();
        ManualDataSender samples = new ManualDataSender();
        client = new LeshanClientBuilder(endpoint).setObjects(objects.createAll()).setDataSenders(samples)
                .setRegistrationEngineFactory(engine).setEndpointsProviders(coap).build();
        client.addObserver(new LwM2mClientObserverAdapter() {
            @Override
            public void onBootstrapSuccess(LwM2mServer server, BootstrapRequest request) {
                say("bootstrapped");
            }

            @Override
            public void onBootstrapFailure(LwM2mServer server, BootstrapRequest request, ResponseCode code,
                    String text, Exception cause) {
                say("refused bootstrap " + code + " " + text + " " + cause);
            }

            @Override
            public void onBootstrapTimeout(LwM2mServer server, BootstrapRequest request) {
                say("refused bootstrap: no answer");
            }

            @Override
            public void onRegistrationTimeout(LwM2mServer server, RegisterRequest request) {
                say("refused register: no answer");
            }

            @Override
            public void onRegistrationSuccess(LwM2mServer server, RegisterRequest request, String location) {
                say("registered " + location);
            }

            @Override
            public void onRegistrationFailure(LwM2mServer server, RegisterRequest request, ResponseCode code,
                    String text, Exception cause) {
                say("refused register " + code + " " + text + " " + cause);
            }

            @Override
            public void onUpdateSuccess(LwM2mServer server, UpdateRequest request) {
                say("updated");
            }

            @Override
            public void onUpdateFailure(LwM2mServer server, UpdateRequest request, ResponseCode code, String text,
                    Exception cause) {
                say("refused update " + code + " " + text + " " + cause);
            }

            @Override
            public void onDeregistrationSuccess(LwM2mServer server, DeregisterRequest request) {
                say("deregistered");
            }
        });
        client.start();

        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = commands.readLine()) != null;) {
            String[] words = line.trim().split(" ", 3);
            if (words[0].equals("set"))
                set(words[1], words[2]);
            else if (words[0].equals("update"))
                client.triggerRegistrationUpdate();
            else if (words[0].equals("send")) {
                LwM2mServer registered = client.getRegisteredServers().values().iterator().next();
                SendResponse response = client.getSendService().sendData(registered, ContentFormat.SENML_CBOR,
                        List.of(words[1].split(",")), 5_000);
                say("sent " + (response == null ? "no answer" : response.getCode()));
            } else if (words[0].equals("collect")) {
                samples.collectData(List.of(new LwM2mPath(words[1])));
                say("collected " + words[1]);
            } else if (words[0].equals("flush")) {
                LwM2mServer registered = client.getRegisteredServers().values().iterator().next();
                samples.sendCollectedData(registered, ContentFormat.SENML_JSON, 5_000, false);
                say("flushed");
            } else if (words[0].equals("deregister")) {
                client.destroy(true);
                break;
            } else
                say("unknown command " + line);
        }
        System.exit(0);
    }

    /** The Security object's instance, as the options have it. */
    static Security security(String server, Map<String, String> options) throws Exception {
        boolean bootstrap = options.containsKey("bootstrap");
        if (options.containsKey("psk")) {
            int cut = options.get("psk").lastIndexOf(':');
            byte[] identity = options.get("psk").substring(0, cut).getBytes(StandardCharsets.UTF_8);
            byte[] key = Hex.decodeHex(options.get("psk").substring(cut + 1).toCharArray());
            return bootstrap ? Security.pskBootstrap(server, identity, key) : Security.psk(server, 123, identity, key);
        }
        if (options.containsKey("x509")) {
            // CERTIFICATE:KEY:SERVER'S CERTIFICATE, files in DER; the server's must be that very one.
            String[] files = options.get("x509").split(":");
            byte[] certificate = Files.readAllBytes(Path.of(files[0]));
            byte[] key = Files.readAllBytes(Path.of(files[1]));
            byte[] expected = Files.readAllBytes(Path.of(files[2]));
            return Security.x509(server, 123, certificate, key, expected);
        }
        return bootstrap ? Security.noSecBootstrap(server) : Security.noSec(server, 123);
    }

    static void table(int object, Map<Integer, Object> values) {
        tables.put("/" + object + "/0", new Table(object, values));
    }

    static void set(String path, String text) {
        int cut = path.lastIndexOf('/');
        Table table = tables.get(path.substring(0, cut));
        int resource = Integer.parseInt(path.substring(cut + 1));
        Object old = table.values.get(resource);
        Object value = old instanceof Double ? (Object) Double.valueOf(text)
                : old instanceof Long ? (Object) Long.valueOf(text)
                : old instanceof Boolean ? (Object) Boolean.valueOf(text) : text;
        table.set(resource, value);
        say("set " + path + " " + value);
    }
}
