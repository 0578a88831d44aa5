(ns proof.zones
  "Entry points, one per zone, each on its own loopback address; all zones share the port.

  A zone has two listeners, plain HTTP for client-cloud and TLS for client-pro, and one mode for both:
    ok      serves
    refuse  as a process that died: nothing listens, open connections end
    silent  as a network that drops everything: SYNs find a full queue, open connections get no answer
    freeze  as a process that was stopped: connections are accepted, nothing is answered
    error   answers 503 to everything, its health check included
  A request that meets `silent` or `freeze` waits and is done when the zone is back, as it would be in
  a process that goes on: that is how a transaction could be applied long after its client gave up."
  (:require [proof.http :as http])
  (:import [java.net InetAddress InetSocketAddress ServerSocket Socket SocketException]
           [java.nio.channels SocketChannel]
           [javax.net.ssl SSLContext SSLSocket]))

(set! *warn-on-reflection* true)

(def ^:private backlog 128)

(defn- bind ^ServerSocket [ip port]
  (doto (ServerSocket.)
    (.setReuseAddress true)
    (.bind (InetSocketAddress. (InetAddress/getByName ip) (int port)) backlog)))

(defn- bind-all
  "Listening sockets on one port that is free on every address."
  [ips]
  (loop [tries 20]
    (let [first-one (bind (first ips) 0)
          port (.getLocalPort first-one)
          others (try (mapv #(bind % port) (rest ips)) (catch java.io.IOException _ nil))]
      (cond
        others (into [first-one] others)
        (zero? tries) (throw (ex-info "no port is free on all addresses" {:ips ips}))
        :else (do (.close first-one) (recur (dec tries)))))))

(defn- tls-server
  "The TLS side of an accepted connection."
  ^Socket [^SSLContext tls ^Socket socket]
  (doto ^SSLSocket (.createSocket (.getSocketFactory tls) socket nil (.getPort socket) true)
    (.setUseClientMode false)))

(defn- held? [mode] (contains? #{:silent :freeze} mode))

(defn- wait-while-held
  "Returns once the zone is neither silent nor frozen."
  [zone]
  (loop []
    (let [{:keys [mode over]} @(:state zone)]
      (when (held? mode) @over (recur)))))

(defn- serve-connection [zone listener ^Socket socket]
  (swap! (:open zone) conj socket)
  (try
    (http/converse (if-let [tls (:tls listener)]
                     ;; The handshake belongs to the held part: a stopped process shakes no hands.
                     (do (wait-while-held zone) (tls-server tls socket))
                     socket)
                   (fn [request]
                     (let [arrived ((:arrived listener) (:name zone) request)]
                       (wait-while-held zone)
                       (let [response (if (= :error (:mode @(:state zone)))
                                        {:status 503 :body "not now"}
                                        ((:handle listener) (:name zone) arrived))]
                         (wait-while-held zone)
                         response))))
    (finally
      (swap! (:open zone) disj socket)
      (.close socket))))

(defn- accept-loop [zone listener ^ServerSocket listening]
  (http/in-thread
   (str "accept-" (:name zone))
   (fn []
     (loop []
       (when-let [socket (try (.accept listening) (catch SocketException _ nil))]
         ;; In `silent` nothing more is taken from the queue, so that it stays full.
         (loop [] (let [{:keys [mode over]} @(:state zone)]
                    (when (= :silent mode) @over (recur))))
         (http/in-thread (str "zone-" (:name zone)) #(serve-connection zone listener socket))
         (recur))))))

(defn- open-listeners [zone]
  (doseq [{:keys [listening port] :as listener} (:listeners zone)
          :when (.isClosed ^ServerSocket @listening)]
    (reset! listening (bind (:ip zone) port))
    (accept-loop zone listener @listening)))

(defn- fill-queues
  "Takes every place in the listening queues, so that the kernel drops further SYNs."
  [zone]
  (doall
   (for [{:keys [port]} (:listeners zone), _ (range (+ 8 backlog))]
     (doto (SocketChannel/open)
       (.configureBlocking false)
       (.connect (InetSocketAddress. ^String (:ip zone) (int port)))))))

(defn switch
  "Puts the zone into `mode`; returns when it is in force."
  [zone mode]
  (locking zone
    (let [{:keys [over fillers]} @(:state zone)]
      (when (= :silent mode) (open-listeners zone))
      (reset! (:state zone) {:mode mode :over (promise)})
      (deliver over true)
      (run! #(.close ^SocketChannel %) fillers)
      (case mode
        (:ok :freeze :error) (open-listeners zone)
        :silent (swap! (:state zone) assoc :fillers (fill-queues zone))
        :refuse (do (doseq [listener (:listeners zone)] (.close ^ServerSocket @(:listening listener)))
                    (run! #(.close ^Socket %) @(:open zone)))))))

(defn mode [zone] (:mode @(:state zone)))

(defn start
  "Starts a zone per address. A listener is `{:tls SSLContext-or-nil :arrived f :handle g}`: `(f zone
  request)` sees a request the moment it is read, `(g zone (f …))` answers it."
  [names ips listeners]
  (let [bound (mapv (fn [_] (bind-all ips)) listeners)]
    (vec
     (for [[i name] (map-indexed vector names)]
       (let [zone {:name name
                   :ip (nth ips i)
                   :state (atom {:mode :ok :over (promise)})
                   :open (atom #{})
                   :listeners (vec (for [[listener sockets] (map vector listeners bound)]
                                 (let [^ServerSocket listening (nth sockets i)]
                                   (assoc listener
                                          :listening (atom listening)
                                          :port (.getLocalPort listening)))))}]
         (doseq [listener (:listeners zone)] (accept-loop zone listener @(:listening listener)))
         zone)))))
