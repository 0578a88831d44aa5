(ns proof.server
  "The system that the clients talk to: zones, signatures, the journal, a mock S3, a control port.

  Every signature is checked by the client's own library, with the key that its S3 key file named."
  (:require [clojure.string :as str]
            [cognitect.hmac-authn :as hmac]
            [cognitect.transit :as transit]
            [datomic.s3-access-keys :as keys]
            [proof.engine :as engine]
            [proof.http :as http]
            [proof.names :as names]
            [proof.zones :as zones])
  (:import [java.io ByteArrayInputStream ByteArrayOutputStream FileInputStream]
           [java.net InetAddress ServerSocket Socket]
           [java.nio ByteBuffer]
           [java.security KeyStore MessageDigest]
           [javax.net.ssl KeyManagerFactory SSLContext SSLSocket]))

(set! *warn-on-reflection* true)

(def ^:private s3-auth-path "entryway-proof/keys")
(def ^:private pro-key {:access-key-id "proof" :secret "proof-secret" :service "peer-server" :region "none"})

;; ---- journal: what reached which zone, and what became of each transaction

(def ^:private journal (atom {:requests {} :refused [] :transactions {}}))

(defn- note-arrival
  "Operations only: `GET /` is what probes send, too."
  [zone {:keys [tx-id]}]
  (swap! journal
         #(cond-> (update-in % [:requests zone] (fnil inc 0))
            tx-id (update-in [:transactions tx-id] (fnil conj [])
                             {:zone zone :at (System/currentTimeMillis)}))))

(defn- note-applied [{:keys [tx-id]}]
  (when tx-id (swap! journal update-in [:applied tx-id] (fnil inc 0))))

;; ---- signatures

(defn- hex [^bytes bytes] (apply str (map #(format "%02x" %) bytes)))

(defn- secret-of
  "The secret of a key file: any function of its place will do, if S3 and the zones agree."
  [^String directory]
  (hex (.digest (MessageDigest/getInstance "SHA-256") (.getBytes directory))))

(def ^:private key-for
  (merge (zipmap ["create-db" "delete-db" "administer-system"] (repeat :admin))
         {"list-dbs" :catalog-read "transact" :db-write}))

(defn- cloud-failure
  "Why this request to /api is not allowed, or nil."
  [{:keys [headers] :as request} body]
  (let [{:keys [access-key-id region]} (hmac/parse-authorization-headers request)
        {:keys [type db-name]} (some-> access-key-id keys/parse-access-key-id)
        op (last (str/split (get headers "x-nano-op" "") #"/"))]
    (cond
      (nil? type) :no-key
      (not= type (key-for op :db-read)) :wrong-kind-of-key
      (and (:db-name body) (#{:db-read :db-write} type) (not= db-name (:db-name body))) :key-of-another-database
      :else (hmac/verify-failure request
                                 {:access-key-id access-key-id
                                  :secret (secret-of (subs access-key-id 0 (str/last-index-of access-key-id "/")))
                                  :service "datomic"
                                  :region region}))))

;; ---- the protocol

(defn- decode [{:keys [headers ^bytes body]}]
  (transit/read (transit/reader (ByteArrayInputStream. body)
                                (if (str/ends-with? (get headers "content-type" "") "msgpack") :msgpack :json))))

(defn- encode ^bytes [value]
  (let [out (ByteArrayOutputStream.)]
    (transit/write (transit/writer out :json) value)
    (.toByteArray out)))

(defn- arrived
  "Decodes an operation and enters it in the journal, before the zone's mode can hold it up."
  [zone {:keys [request-method] :as request}]
  (let [operation (when (= :post request-method) (decode request))]
    (when operation (note-arrival zone operation))
    (assoc request :operation operation)))

(defn- operate [failure {:keys [headers ^bytes body operation] :as request}]
  (let [why (failure (assoc request :body (ByteBuffer/wrap body)) operation)
        result (if why
                 {:cognitect.anomalies/category :cognitect.anomalies/forbidden
                  :cognitect.anomalies/message (str "signature refused: " why)}
                 (engine/answer (get headers "x-nano-op" "") operation))]
    (when why (swap! journal update :refused conj [why (get headers "x-nano-op")]))
    (when (:tempids result) (note-applied operation))
    {:status (case (:cognitect.anomalies/category result)
               nil 200, :cognitect.anomalies/forbidden 403, :cognitect.anomalies/fault 500, 400)
     :type "application/transit+json"
     :pause-ms (some :pause-ms (filter map? (:args operation)))
     :body (encode result)}))

(defn- cloud-listener [_zone {:keys [request-method uri] :as request}]
  (case [request-method uri]
    ;; The client takes no other content type, not even with a charset.
    [:get "/"] {:status 200 :type "text/plain" :body (pr-str {:s3-auth-path s3-auth-path})}
    [:post "/api"] (operate cloud-failure request)
    {:status 404 :body "no such page"}))

(defn- pro-listener [_zone request]
  (operate (fn [signed _] (hmac/verify-failure signed pro-key)) request))

;; ---- S3, behind a proxy: the only way to put a mock where the client's AWS library looks

(defn- s3-answer [{:keys [uri]}]
  (if-let [[_ directory] (re-matches #"(/.*)/\.keys" uri)]
    (let [body (encode {:current {:key-name "k1"
                                  :secret (secret-of (str "s3://entryway-proof" directory))
                                  :created #inst "2024-01-01"}})]
      {:status 200 :type "application/octet-stream" :body body
       :headers {"ETag" (str \" (hex (.digest (MessageDigest/getInstance "MD5") body)) \")}})
    {:status 404 :type "application/xml" :body "<Error><Code>NoSuchKey</Code></Error>"}))

(defn- listen
  "A listening socket on loopback, each connection given to `(serve socket)`; returns its port."
  [name serve]
  (let [listening (ServerSocket. 0 64 (InetAddress/getByName "127.0.0.1"))]
    (http/in-thread name #(while true
                            (let [socket (.accept listening)]
                              (http/in-thread name (fn [] (serve socket))))))
    (.getLocalPort listening)))

(defn- read-line-raw [^java.io.InputStream in]
  (loop [line (StringBuilder.)]
    (let [b (.read in)]
      (if (or (neg? b) (= b 10)) (str/trim (str line)) (recur (.append line (char b)))))))

(defn- serve-s3 [^SSLContext tls ^Socket socket]
  ;; Read byte by byte: what follows the empty line is TLS and must stay in the socket.
  (let [in (.getInputStream socket)]
    (while (seq (read-line-raw in)))
    (.write (.getOutputStream socket) (.getBytes "HTTP/1.1 200 Connection established\r\n\r\n"))
    (http/converse (doto ^SSLSocket (.createSocket (.getSocketFactory tls) socket nil (.getPort socket) true)
                     (.setUseClientMode false))
                   ;; The bucket stands in the host name or in front of the path.
                   (fn [request] (s3-answer (update request :uri str/replace #"^/entryway-proof/" "/"))))))

;; ---- control

(defn- control [all {:keys [request-method uri query-string]}]
  (let [subject (last (str/split uri #"/"))
        zone (first (filter #(= subject (:name %)) all))]
    (cond
      (= [:get "/journal"] [request-method uri]) {:status 200 :body (pr-str @journal)}
      (and (= :post request-method) zone)
      (do (zones/switch zone (keyword (second (str/split query-string #"="))))
          {:status 200 :body (name (zones/mode zone))})
      ;; A peer server is given its databases when it is started; here it is told.
      (and (= :post request-method) (str/starts-with? uri "/databases/"))
      {:status 200 :body (pr-str (engine/answer "create-db" {:db-name subject}))}
      :else {:status 404 :body "no such page"})))

(defn- tls-context ^SSLContext [file password]
  (let [password (char-array password)
        store (with-open [in (FileInputStream. ^String file)]
                (doto (KeyStore/getInstance "PKCS12") (.load in password)))
        managers (doto (KeyManagerFactory/getInstance (KeyManagerFactory/getDefaultAlgorithm))
                   (.init store password))]
    (doto (SSLContext/getInstance "TLS") (.init (.getKeyManagers managers) nil nil))))

(defn -main
  "Starts everything and prints the ports as shell assignments."
  [key-store password]
  (let [tls (tls-context key-store password)
        ips ["127.0.0.21" "127.0.0.22" "127.0.0.23"]
        all (zones/start ["a" "b" "c"] ips
                         [{:arrived arrived :handle cloud-listener}
                          {:arrived arrived :handle pro-listener :tls tls}])
        [cloud pro] (map :port (:listeners (first all)))]
    (println (str "CLOUD_PORT=" cloud))
    (println (str "PRO_PORT=" pro))
    (println (str "S3_PORT=" (listen "s3" #(serve-s3 tls %))))
    (println (str "NAMES_PORT=" (names/serve ips)))
    (println (str "CONTROL_PORT=" (listen "control" #(http/converse % (partial control all)))))
    (println "STARTED=1")
    (flush)
    @(promise)))
