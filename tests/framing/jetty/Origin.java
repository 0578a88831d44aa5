import java.io.IOException;
import java.net.InetSocketAddress;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.AbstractHandler;

/** The pages of the framing proof, by Jetty. Says its port. */
public class Origin extends AbstractHandler {
    static final int PAUSE = 700;
    static final byte[] TEXT = "x".repeat(3000).getBytes();

    static void halves(HttpServletResponse response, int pause) throws IOException {
        response.getOutputStream().write(TEXT, 0, 1500);
        response.flushBuffer();
        pause(pause);
        response.getOutputStream().write(TEXT, 1500, 1500);
    }

    static void pause(int ms) throws IOException {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
    }

    static void whole(HttpServletResponse response, byte[] text) throws IOException {
        response.setContentLength(text.length);
        response.getOutputStream().write(text);
    }

    @Override
    public void handle(String path, Request base, HttpServletRequest request, HttpServletResponse response)
            throws IOException {
        base.setHandled(true);
        switch (path) {
            case "/length" -> whole(response, TEXT);
            case "/slow" -> {
                pause(PAUSE);
                whole(response, TEXT);
            }
            case "/chunked" -> halves(response, 0);
            case "/paused" -> {
                response.setContentLength(TEXT.length);
                halves(response, PAUSE);
            }
            case "/paused-chunked" -> halves(response, PAUSE);
            case "/none" -> response.setStatus(204);
            case "/unchanged" -> response.setStatus(304);
            case "/echo" -> whole(response, request.getInputStream().readAllBytes());
            default -> response.sendError(404);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Server server = new Server(new InetSocketAddress("127.0.0.1", 0));
        server.setHandler(new Origin());
        server.start();
        System.out.println("PORT=" + ((ServerConnector) server.getConnectors()[0]).getLocalPort());
        server.join();
    }
}
