/* See names.h. The names are those of the data sets that recommender papers use, of their usual conversions,
 * and of the exports of shops and players. */
#include "names.h"

#include <ctype.h>
#include <string.h>

const char *const name_of[NAMES] = {"user", "item", "rating", "time", "event", "title"};

/* The first choice first: where a file has several of them, it is taken. */
static const char *const usual[NAMES] = {
    [NAME_USER] =
        " userid user uid userno usernum usersid userkey userindex useridx userhash username reviewerid "
        "reviewer "
        "customerid customer custid visitorid visitor fullvisitorid msno memberid member personid person "
        "accountid "
        "account clientid client profileid subscriberid householdid buyerid listenerid listener readerid "
        "reader "
        "playerid player steamid viewerid patronid studentid learnerid deviceid cookieid sessionid session "
        "nickname profilename reviewername reviewprofilename gplususerid u ",
    [NAME_ITEM] =
        " itemid item iid itemno itemnum itemsid itemkey itemindex itemidx parentasin asin movieid movie "
        "filmid film "
        "businessid business songid song trackid track artistid artist albumid album productid product "
        "prodid sku "
        "articleid article bookid isbn book gameid game appid app animeid anime mangaid manga gmapid venueid "
        "venue "
        "placeid place poiid poi locationid location recipeid recipe newsid news contentid content jokeid "
        "joke beerid "
        "beerbeerid beer wineid wine restaurantid restaurant hotelid hotel listingid listing jobid job "
        "courseid course "
        "videoid video showid show storyid documentid docid postid photoid pinid offerid dealid goodsid adid "
        "adgroupid stockcode packageid repoid eventid artid traid aid itemname productname moviename "
        "artistname gplusplaceid trackname gamename booktitle movietitle itemtitle i ",
    [NAME_RATING] =
        " rating ratings score stars overall userrating ratingscore ratingvalue reviewscore reviewoverall "
        "reviewrating "
        "bookrating myscore grade preference preferencevalue rate plays playcount playcounts listencount "
        "listens "
        "weight strength count counts quantity r ",
    [NAME_TIME] = " timestamp time unixreviewtime unixtime unixtimestamp ts epoch datetime eventtime "
                  "eventtimestamp reviewtimestamp "
                  "timestampms date createdat createdtime reviewtime reviewdate ratedat ratingtime "
                  "ratingtimestamp ratingdate "
                  "listenedat playedat watchedat purchasedat purchasetime purchasedate orderdate tdat "
                  "dateadded dateupdated "
                  "updatedat visitedat visittime checkintime eventdate day t ",
    [NAME_EVENT] = " event eventtype eventname behavior behaviour behaviortype action actiontype interaction "
                   "interactiontype "
                   "activity activitytype ",
    [NAME_TITLE] = " title name itemname itemtitle movietitle moviename booktitle productname producttitle "
                   "artistname trackname "
                   "songname gamename originaltitle appname label description ",
};

size_t name_untyped(const char *text, size_t length) {
    static const char *const types[] = {":token", ":token_seq", ":float", ":float_seq"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t n = strlen(types[i]);
        if (length > n && memcmp(text + length - n, types[i], n) == 0) return length - n;
    }
    return length;
}

int name_rank(enum name name, const char *text, size_t length) {
    char word[32] = " ";
    size_t n = 1;
    length = name_untyped(text, length);
    for (size_t i = 0; i < length && !(n > 1 && text[i] == '('); i++) {
        if (text[i] && strchr("_- ./#@\r\n\t", text[i])) continue;
        if (!isalnum((unsigned char)text[i]) || n + 2 >= sizeof word) return -1;
        word[n++] = (char)tolower((unsigned char)text[i]);
    }
    word[n] = ' ';
    word[n + 1] = '\0';
    const char *at = n > 1 ? strstr(usual[name], word) : NULL;
    if (!at) return -1;
    int rank = 0;
    for (const char *c = usual[name]; c < at; c++) rank += *c == ' ';
    return rank;
}
