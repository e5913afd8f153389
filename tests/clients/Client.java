import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

/** Java's HttpClient: METHOD URL. Prints "HTTP status decision" and the body. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(20)).build();
        var request = HttpRequest.newBuilder(URI.create(arguments[1]))
                .timeout(Duration.ofSeconds(20))
                .method(arguments[0], BodyPublishers.noBody())
                .build();
        var response = client.send(request, BodyHandlers.ofString());
        var decision = response.headers().firstValue("x-leasehold-decision").orElse("None");
        System.out.println("HTTP " + response.statusCode() + " " + decision);
        System.out.println(response.body());
    }
}
