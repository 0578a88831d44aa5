(ns proof.zones
  "Entry points, one per zone, each on its own loopback address; all zones share the port.

  A zone has two doors, plain HTTP for client-cloud and TLS for client-pro, and one mode for both:
    ok      serves
    refuse  as a process that died: nothing listens, open connections end
    silent  as a network that drops everything: SYNs find a full queue, open connections get no answer
    freeze  as a process that was stopped: connections are accepted, nothing is answered
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

(defn- serve-connection [zone door ^Socket socket]
  (swap! (:open zone) conj socket)
  (try
    (http/converse (if-let [tls (:tls door)]
                     ;; The handshake belongs to the held part: a stopped process shakes no hands.
                     (do (wait-while-held zone) (tls-server tls socket))
                     socket)
                   (fn [request]
                     (let [arrived ((:arrived door) (:name zone) request)]
                       (wait-while-held zone)
                       (let [response ((:handle door) (:name zone) arrived)]
                         (wait-while-held zone)
                         response))))
    (finally
      (swap! (:open zone) disj socket)
      (.close socket))))

(defn- accept-loop [zone door ^ServerSocket listening]
  (http/in-thread
   (str "accept-" (:name zone))
   (fn []
     (loop []
       (when-let [socket (try (.accept listening) (catch SocketException _ nil))]
         ;; In `silent` nothing more is taken from the queue, so that it stays full.
         (loop [] (let [{:keys [mode over]} @(:state zone)]
                    (when (= :silent mode) @over (recur))))
         (http/in-thread (str "zone-" (:name zone)) #(serve-connection zone door socket))
         (recur))))))

(defn- open-doors [zone]
  (doseq [{:keys [listening port] :as door} (:doors zone)
          :when (.isClosed ^ServerSocket @listening)]
    (reset! listening (bind (:ip zone) port))
    (accept-loop zone door @listening)))

(defn- fill-queues
  "Takes every place in the listening queues, so that the kernel drops further SYNs."
  [zone]
  (doall
   (for [{:keys [port]} (:doors zone), _ (range (+ 8 backlog))]
     (doto (SocketChannel/open)
       (.configureBlocking false)
       (.connect (InetSocketAddress. ^String (:ip zone) (int port)))))))

(defn switch
  "Puts the zone into `mode`; returns when it is in force."
  [zone mode]
  (locking zone
    (let [{:keys [over fillers]} @(:state zone)]
      (when (= :silent mode) (open-doors zone))
      (reset! (:state zone) {:mode mode :over (promise)})
      (deliver over true)
      (run! #(.close ^SocketChannel %) fillers)
      (case mode
        (:ok :freeze) (open-doors zone)
        :silent (swap! (:state zone) assoc :fillers (fill-queues zone))
        :refuse (do (doseq [door (:doors zone)] (.close ^ServerSocket @(:listening door)))
                    (run! #(.close ^Socket %) @(:open zone)))))))

(defn mode [zone] (:mode @(:state zone)))

(defn start
  "Starts a zone per address. A door is `{:tls SSLContext-or-nil :arrived f :handle g}`: `(f zone
  request)` sees a request the moment it is read, `(g zone (f …))` answers it."
  [names ips doors]
  (let [bound (mapv (fn [_] (bind-all ips)) doors)]
    (vec
     (for [[i name] (map-indexed vector names)]
       (let [zone {:name name
                   :ip (nth ips i)
                   :state (atom {:mode :ok :over (promise)})
                   :open (atom #{})
                   :doors (vec (for [[door sockets] (map vector doors bound)]
                                 (let [^ServerSocket listening (nth sockets i)]
                                   (assoc door
                                          :listening (atom listening)
                                          :port (.getLocalPort listening)))))}]
         (doseq [door (:doors zone)] (accept-loop zone door @(:listening door)))
         zone)))))
